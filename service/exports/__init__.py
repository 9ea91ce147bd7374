"""Results as other programs read them: DICOM, NIfTI, BIDS, MRD, and files of BART and fastMRI.

Those that lie in the patient's space take `ResultImages`, so that geometry and scaling are decided
in one place; the others take the posteriors.
"""
