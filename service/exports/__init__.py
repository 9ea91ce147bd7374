"""Results as other programs read them: DICOM, NIfTI and MRD images.

All three take `ResultImages`, so that geometry and scaling are decided in one place.
"""
