"""Sending DICOM by C-STORE (PS3.7, 9.1.1) to a node that the operator has configured.

The older of the two ways into a PACS, and in many hospitals the only one. What the node says of
every single instance is read.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from io import BytesIO

import pydicom
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from service.delivery.stow import Instance, Outcome, fail, meaning_of
from service.settings import DimseTarget

_SUCCESS, _WARNINGS = 0x0000, 0xB
_OUT_OF_RESOURCES = 0xA7


def store(target: DimseTarget, instances: Sequence[Instance]) -> Outcome:
    """Try once to store all instances. Nothing is raised for what the node or network does."""
    outcome = Outcome()
    datasets = [pydicom.dcmread(BytesIO(instance.content)) for instance in instances]
    node = AE(ae_title=target.calling_title)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = target.seconds
    node.connection_timeout = target.seconds
    kinds = {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in datasets}
    node.requested_contexts = [build_context(kind, syntax) for kind, syntax in sorted(kinds)]
    secure = None
    if target.tls:
        context = ssl.create_default_context(cafile=target.certificates)
        if target.own_certificate is not None:
            context.load_cert_chain(target.own_certificate)
        secure = (context, target.host)
    association = node.associate(
        target.host, target.port, ae_title=target.called_title, tls_args=secure
    )
    if not association.is_established:
        why = "it refused the association" if association.is_rejected else "no answer"
        fail(outcome, instances, f"{target.host}: {why}", again=True)
        return outcome
    try:
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        for instance, dataset in zip(instances, datasets, strict=True):
            if str(dataset.SOPClassUID) not in accepted:
                outcome.failures[instance.uid] = "its kind is not taken (no presentation context)"
            else:
                _send(association, instance, dataset, outcome)
    finally:
        if association.is_established:
            association.release()
    return outcome


def _send(
    association: Association, instance: Instance, dataset: pydicom.Dataset, outcome: Outcome
) -> None:
    status: int | None = None
    why = "no answer"
    try:
        status = association.send_c_store(dataset).get("Status")  # absent where none came in time
    except (RuntimeError, ValueError) as error:  # the association has ended, or cannot be encoded
        why = f"not sent ({type(error).__name__})"
    if status is not None and (status == _SUCCESS or status >> 12 == _WARNINGS):
        outcome.stored.append(instance.uid)  # with some elements coerced, perhaps
        return
    outcome.failures[instance.uid] = why if status is None else meaning_of(status)
    if status is None or status >> 8 == _OUT_OF_RESOURCES:
        outcome.again.add(instance.uid)
