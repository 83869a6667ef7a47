"""Connection settings: what they accept, what they refuse, what they never show."""

import ssl
from pathlib import Path

import pytest

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings

SECRET = "correct horse"  # noqa: S105 - a test's
SASL = {"POLYTEMPO_KAFKA_USER": "ada", "POLYTEMPO_KAFKA_PASSWORD": SECRET}


def test_without_anything_it_is_the_open_broker_of_this_machine() -> None:
    assert KafkaSettings.read(environment={}) == KafkaSettings(bootstrap=("localhost:9092",), security="PLAINTEXT")


def test_named_servers_go_before_the_environment_and_ports_have_a_default() -> None:
    settings = KafkaSettings.read("kafka://a:1234, b,[::1]:99", {"POLYTEMPO_KAFKA": "ignored:1"})
    assert settings.bootstrap == ("a:1234", "b:9092", "[::1]:99")
    assert settings.servers == "a:1234,b:9092,[::1]:99"


def test_an_empty_variable_counts_as_unset() -> None:
    assert KafkaSettings.read(environment={"POLYTEMPO_KAFKA": "", "POLYTEMPO_KAFKA_USER": ""}).security == "PLAINTEXT"


@pytest.mark.parametrize("servers", ["a:b", "a:0", "a:70000", "a b", ",", "http://a:1/x"])
def test_what_is_no_server_is_refused(servers: str) -> None:
    with pytest.raises(PolytempoError, match="is no Kafka server"):
        KafkaSettings.read(servers, {})


def test_a_password_in_the_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(PolytempoError) as caught:
        KafkaSettings.read(f"ada:{SECRET}@a:1", {})
    assert SECRET not in str(caught.value)


def test_no_text_of_the_settings_shows_the_password() -> None:
    settings = KafkaSettings.read("a:1", SASL)
    assert SECRET not in f"{settings!r} {settings} {settings.faust()!r}"


def test_a_user_alone_implies_encryption_so_that_no_password_travels_in_the_clear() -> None:
    settings = KafkaSettings.read("a:1", SASL)
    assert (settings.security, settings.sasl_mechanism) == ("SASL_SSL", "PLAIN")


@pytest.mark.parametrize("client", ["kafka_python", "aiokafka"])
def test_clients_get_user_password_and_mechanism(client: str) -> None:
    environment = {
        **SASL,
        "POLYTEMPO_KAFKA_SECURITY": "sasl_plaintext",
        "POLYTEMPO_KAFKA_SASL_MECHANISM": "scram-sha-512",
    }
    assert getattr(KafkaSettings.read("a:1,b:2", environment), client)() == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ada",
        "sasl_plain_password": SECRET,
    }


def test_faust_makes_of_them_what_aiokafka_needs() -> None:
    """Through Faust's own translation, so that a change there is seen here."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    settings = KafkaSettings.read("a:1", {**SASL, "POLYTEMPO_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"})
    faust = settings.faust()
    auth = credentials_to_aiokafka_auth(faust["broker_credentials"])
    assert faust["broker"] == ["kafka://a:1"]
    assert (auth["security_protocol"], auth["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (auth["sasl_plain_username"], auth["sasl_plain_password"]) == ("ada", SECRET)
    assert isinstance(auth["ssl_context"], ssl.SSLContext)


def test_an_open_cluster_needs_no_credentials_in_faust() -> None:
    assert KafkaSettings.read("a:1", {}).faust() == {"broker": ["kafka://a:1"]}


def test_tls_checks_certificates_and_host_names() -> None:
    context = KafkaSettings.read("a:1", {"POLYTEMPO_KAFKA_SECURITY": "SSL"}).ssl_context()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security": "TLS"}, "unknown Kafka security protocol 'TLS'"),
        ({"sasl_mechanism": "GSSAPI", "user": "u", "password": "p"}, "unknown SASL mechanism 'GSSAPI'"),
        ({"user": "u"}, "needs a user and a password"),
        ({"security": "PLAINTEXT", "user": "u", "password": "p"}, "sends none"),
        ({"ca": "nowhere.pem"}, "CA file nowhere.pem does not exist"),
        ({"security": "SSL", "key": __file__}, "key file without a certificate"),
        ({"security": "PLAINTEXT", "ca": __file__}, "does not encrypt"),
    ],
)
def test_contradictions_are_refused_with_the_reason(options: dict[str, str], message: str) -> None:
    with pytest.raises(PolytempoError, match=message):
        KafkaSettings.read("a:1", {}, **options)


def test_a_file_without_certificates_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    settings = KafkaSettings.read("a:1", {}, ca=str(tmp_path / "ca.pem"))
    with pytest.raises(PolytempoError, match=r"ca\.pem holds no certificate authorities"):
        settings.ssl_context()
