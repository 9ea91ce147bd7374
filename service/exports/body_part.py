"""Which part of the body a header says was scanned, in the words that DICOM has for it."""

from __future__ import annotations

from typing import Any

UNPAIRED = frozenset(
    {"ABDOMEN", "ABDOMENPELVIS", "AORTA", "BLADDER", "BRAIN", "CERVIX", "CHEST", "CHESTABDOMEN"}
    | {"COCCYX", "CSPINE", "CTSPINE", "HEAD", "HEADNECK", "HEART", "LIVER", "LSPINE", "LSSPINE"}
    | {"MEDIASTINUM", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SPINE", "SPLEEN", "SSPINE"}
    | {"STOMACH", "TLSPINE", "TSPINE", "UTERUS", "WHOLEBODY"}
)
"""Those of which there is one."""
_PAIRED = frozenset(
    {"ANKLE", "ARM", "BREAST", "CALF", "CLAVICLE", "ELBOW", "EXTREMITY", "EYE", "FINGER", "FOOT"}
    | {"FOREARM", "HAND", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "ORBIT", "SHOULDER"}
    | {"THIGH", "THUMB", "TOE", "WRIST"}
)


def body_part(header: Any) -> str:  # noqa: ANN401  # schema class or None
    """The defined term of PS3.16, Annex L; empty where the header has none, or another text."""
    study = getattr(header, "studyInformation", None)
    said = str(getattr(study, "bodyPartExamined", None) or "").strip().upper()
    return said if said in UNPAIRED | _PAIRED else ""
