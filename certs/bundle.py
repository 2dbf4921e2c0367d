"""Owns PKCS #12 files: certificate, key and authority in one, under a password, as browsers import them."""

from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from certs import pem
from certs.errors import ArgumentsError, CertsError
from certs.files import check_free, install
from certs.wishes import check_name


def export(directory: Path, name: str, path: Path, password: str, *, force: bool = False) -> None:
    """Write NAME.crt, NAME.key and the authorities of ca.crt into one file, with mode 0600.

    Args:
        directory: holds them.
        name: whose certificate.
        path: the file to make.
        password: what protects it; not empty.
        force: replace a file that exists.

    Raises:
        ArgumentsError: that makes no sense.
        CertsError: a file is missing, does not fit the others, or exists already.
    """
    check_name(name)
    if not password:
        raise ArgumentsError("a password is needed: the file holds a private key.")
    if not force:
        check_free(path.parent, [path.name])
    certificate_path, key_path, ca_path = (
        directory / file for file in (f"{name}.crt", f"{name}.key", "ca.crt")
    )
    certificate = pem.certificates(pem.read(certificate_path), certificate_path)[0]
    key = pem.key(pem.read(key_path), key_path)
    with pem.understood(certificate_path):
        fits = key.public_key() == certificate.public_key()
    if not fits:
        raise CertsError(f"{key_path} is not the key of {certificate_path}: put the right one there.")
    content = pkcs12.serialize_key_and_certificates(
        name.encode(),
        cast("pkcs12.PKCS12PrivateKeyTypes", key),
        certificate,
        pem.certificates(pem.read(ca_path), ca_path),
        BestAvailableEncryption(password.encode()),
    )
    install(path.parent, {path.name: content}, force=force, secret=True)
