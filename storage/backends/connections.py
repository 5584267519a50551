"""What it means that no connection came about: a certificate that nobody trusts, a proxy that refuses.

Rules:
1. What repeating cannot mend is a matter of configuration, not "unavailable": the error says what to set.
2. Only words of the operating system and of TLS itself are passed on, and names of classes: what a server or proxy
   said, or how a URL was given, may hold credentials.

    raise storage_error(call, tls_failure(error, "https://s3.example.com"))

Source: OpenSSL, "X509_STORE_CTX_get_error" (codes); Python, "http.client" (words of a tunnel that failed).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from storage.backends.answers import Failure, NoAnswer, NotConfigured

PROXY_REFUSES = 407
GIVE = "give them whole: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or a role"
MEND = "mend the profile, its files and the programs that it names (AWS_PROFILE, AWS_CONFIG_FILE)"
_TRUST = "name the certificate of its authority in AWS_CA_BUNDLE, or as ca_bundle of the profile"
_READABLE = "name a file of certificates (PEM) that can be read in AWS_CA_BUNDLE, or as ca_bundle of the profile"
_IN_TIME = "renew the server's certificate, or set the clock of this machine"
_SAME_HOST = "use the name that the certificate is for, or give the server one for this name"
_SIGN_IN = "check user, password and rights at the proxy that HTTP_PROXY or HTTPS_PROXY names"
_TIMES = frozenset({9, 10})  # not yet valid, expired
_HOSTS = frozenset({62, 64})  # another host name, another address
_NO_CERTIFICATES = frozenset({"NO_CERTIFICATE_OR_CRL_FOUND", "PEM_LIB", "BAD_BASE64_DECODE", "NO_START_LINE"})
_NO_TLS = "WRONG_VERSION_NUMBER"  # what OpenSSL makes of an answer in plain text
_PLAIN = ": is it a server of http://, without TLS?"
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


def tls_failure(error: BaseException, place: str) -> Failure:
    """Return what a failure of TLS with the server `place` means."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NotConfigured(f"the certificate of {place} is not trusted ({_words(cause)})", _remedy(cause))
        if type(cause).__name__ == "CertificateError":  # urllib3's, which not every backend has
            return NotConfigured(f"the certificate of {place} is not trusted (it is another host's)", _SAME_HOST)
        unread = isinstance(cause, FileNotFoundError | IsADirectoryError | PermissionError)
        if unread or (isinstance(cause, ssl.SSLError) and cause.reason in _NO_CERTIFICATES):
            return NotConfigured(f"the file of trusted certificates cannot be used ({told(cause)})", _READABLE)
    hint = (
        _PLAIN if any(isinstance(cause, ssl.SSLError) and cause.reason == _NO_TLS for cause in _causes(error)) else ""
    )
    return NoAnswer(f"no usable answer from {place} ({told(error)}{hint})", sent=True)


def proxy_failure(error: BaseException, place: str, proxy: str) -> Failure:
    """Return what it means that the server `place` could not be reached by `proxy`, which is host and port."""
    tunnels = (_TUNNEL.search(str(cause)) for cause in _causes(error))
    for status in (int(found[1]) for found in tunnels if found):
        if 400 <= status < 500:
            return proxy_refusal(status, proxy)
        return NoAnswer(f"the proxy {proxy} did not reach {place} ({status})", sent=False)
    return NoAnswer(f"the proxy {proxy} before {place} cannot be reached ({told(error)})", sent=False)


def proxy_of(url: str) -> str:
    """Return host and port of the proxy that the environment sets for a URL, without user and password; "" for none."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    return urlsplit(getproxies().get(parts.scheme, "")).netloc.rpartition("@")[2]


def proxy_refusal(status: int, proxy: str) -> Failure:
    """Return what it means that `proxy` answered with this status itself."""
    return NotConfigured(f"the proxy {proxy} refused us ({status})", _SIGN_IN)


def told(error: BaseException) -> str:
    """Return the kind of an error, and what the operating system or TLS says of it."""
    name = type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return f"{name}: {cause.reason}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return f"{name}: {cause.strerror}"
    return name


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _TIMES:
        return _IN_TIME
    return _SAME_HOST if error.verify_code in _HOSTS else _TRUST


def _words(error: ssl.SSLCertVerificationError) -> str:
    return error.verify_message.rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, the latest first."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
