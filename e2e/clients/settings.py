"""Connection settings from the environment: BOOTSTRAP, and for TLS also CA, CERT and KEY."""
import os

bootstrap = os.environ["BOOTSTRAP"]
tls = "CA" in os.environ


def confluent(**more):
    settings = {"bootstrap.servers": bootstrap}
    if tls:
        settings |= {
            "security.protocol": "ssl",
            "ssl.ca.location": os.environ["CA"],
            "ssl.certificate.location": os.environ["CERT"],
            "ssl.key.location": os.environ["KEY"],
        }
    return settings | {key.replace("_", "."): value for key, value in more.items()}


def kafka_python(**more):
    settings = {"bootstrap_servers": bootstrap}
    if tls:
        settings |= {
            "security_protocol": "SSL",
            "ssl_cafile": os.environ["CA"],
            "ssl_certfile": os.environ["CERT"],
            "ssl_keyfile": os.environ["KEY"],
        }
    return settings | more
