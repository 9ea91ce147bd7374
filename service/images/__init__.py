"""Images from elsewhere on their way to training; `service.training.images` is the door.

`kspace`, `nifti` and `dicom` read them, `volumes` brings them to one form, `files` is that form on
disk and `cache` keeps it. Whatever is read here may be hostile, and may name patients.
"""
