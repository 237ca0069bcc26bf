"""`localhost_tls`: certificates to test TLS with."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

__all__ = ["localhost_tls"]


def localhost_tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's `ssl.SSLContext`, for tests.

    The server's certificate is for `localhost`, `127.0.0.1` and `::1`; the client trusts it and nothing else. Both
    contexts are new and may be changed, for instance with `set_alpn_protocols()`. The key is public: never use these
    outside tests.

    Thread safety: any thread. Tokio has no such thing; in Rust one takes the crate `rcgen`.

    Example::

        import freerun
        from freerun.net import TlsListener, TlsStream
        from freerun.testing import localhost_tls

        async def main() -> str:
            server, client = localhost_tls()
            server.set_alpn_protocols(["h2", "http/1.1"])
            client.set_alpn_protocols(["http/1.1"])
            async with TlsListener.bind("127.0.0.1:0", server) as listener:
                freerun.spawn(listener.accept)
                async with TlsStream.connect(listener.local_addr, client) as stream:
                    return stream.selected_alpn_protocol()

        assert freerun.run(main) == "http/1.1"
    """
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # load_cert_chain() takes nothing but a file
        file.write(_KEY + _CERTIFICATE)
        file.flush()
        server.load_cert_chain(file.name)
    client = ssl.create_default_context(cadata=_AUTHORITY)
    return server, client


# Made by tools/make_test_certificate.sh. Valid from 2020 to 2120.

_AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBfjCCASOgAwIBAgIUWH7WAQQK6csAML1E7i+0xZEAWNowCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPZnJlZXJ1bidzIHRlc3RzMCAXDTIwMDEwMTAwMDAwMFoYDzIx
MjAwMTAxMDAwMDAwWjAaMRgwFgYDVQQDDA9mcmVlcnVuJ3MgdGVzdHMwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAQsjacFYC6Rt2RHXvXHyNCg9z1udVx+bhYNY4Wq
PTsKlQizBXAWiVmVH5ZoModkhj80MYmWDUlJg4Ksjcuk7jxKo0UwQzASBgNVHRMB
Af8ECDAGAQH/AgEAMA4GA1UdDwEB/wQEAwIBBjAdBgNVHQ4EFgQU42RrZwJgpmn3
kXb5vDqWKWtAxcEwCgYIKoZIzj0EAwIDSQAwRgIhAJ0fSPVfKewJkTyh8CcpRZaR
k3SPc4YcTy6D+eNQ2//yAiEA0n5beBhcxJ3TJ73KpouAd+FmcoN4bA23rTAN4wrw
V90=
-----END CERTIFICATE-----
"""

_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIB4TCCAYegAwIBAgIUCuSUFwKv8Pgo6mzpvSVsWEGQsbQwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPZnJlZXJ1bidzIHRlc3RzMCAXDTIwMDEwMTAwMDAwMFoYDzIx
MjAwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASGmiO4gYOk7qDk/wK7AQbwg8wYOzyZXh52MNLVZO5I+3ZS
CGnd9SDV2xTXxakbSO+hr9tyCsd0opbfIh+KXnmRo4GuMIGrMAwGA1UdEwEB/wQC
MAAwDgYDVR0PAQH/BAQDAgeAMB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcD
AjAsBgNVHREEJTAjgglsb2NhbGhvc3SHBH8AAAGHEAAAAAAAAAAAAAAAAAAAAAEw
HQYDVR0OBBYEFP2niGICgp0Lg4W367zzrs6JPx6MMB8GA1UdIwQYMBaAFONka2cC
YKZp95F2+bw6lilrQMXBMAoGCCqGSM49BAMCA0gAMEUCIG7WkSbqDqKSTgcqW3w/
sWxQ76ERAVW6YMEnGsBTN3J6AiEApZO/F5E8+V7bA/6wELaRPZ4/YQ2PCmrAU9Ol
Fy9/pu8=
-----END CERTIFICATE-----
"""

_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2LuibC0sYn5b15Ub
phft5Sk0uK3zfrAtZPUf+7noNf6hRANCAASGmiO4gYOk7qDk/wK7AQbwg8wYOzyZ
Xh52MNLVZO5I+3ZSCGnd9SDV2xTXxakbSO+hr9tyCsd0opbfIh+KXnmR
-----END PRIVATE KEY-----
"""
