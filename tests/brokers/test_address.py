from __future__ import annotations

import pytest

from actorjobs.brokers.rabbitmq import parse_address
from actorjobs.errors import InvalidOption

CANARY = "secret-canary"


def test_a_plain_address() -> None:
    address = parse_address("amqp://u:p@broker/")
    assert (address.hosts, address.user, address.password, address.vhost) == ((("broker", 5672),), "u", "p", "/")


def test_several_hosts_ports_and_a_virtual_host() -> None:
    address = parse_address("amqps://user:p%40ss%2F@a:1,b,[::1]:3/my%2Fhost?cafile=/etc/ca.pem")
    assert address.hosts == (("a", 1), ("b", 5671), ("[::1]", 3))
    assert (address.password, address.vhost) == ("p@ss/", "my/host")
    assert address.url("a", 1) == "amqps://user:p%40ss%2F@a:1/my%2Fhost?cafile=%2Fetc%2Fca.pem&heartbeat=10"


def test_what_is_left_out_is_rabbitmqs_own_default() -> None:
    address = parse_address("amqp://localhost")
    assert (address.user, address.password, address.vhost) == ("guest", "guest", "/")


def test_its_text_never_shows_the_password() -> None:
    address = parse_address(f"amqp://u:{CANARY}@h1,h2/v")
    assert str(address) == "amqp://u:***@h1:5672,h2:5672/v"
    assert CANARY not in repr(address)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://u:secret-canary@h", "amqp or amqps"),
        ("amqp://u:secret-canary@", "host"),
        ("amqp://u:secret-canary@h:99999", "host"),
        ("amqp://u:secret-canary@h:0", "host"),
        ("amqp://u:secret-canary@h:x", "host"),
        ("amqp://u:secret-canary@h1,,h2", "host"),
        ("amqps://u:secret-canary@h?heartbeat=1", "unknown option"),
        ("amqps://u:hush?secret-canary@h/", "write @ as %40"),
        ("amqp://u:hush#secret-canary@h/", "# as %23"),
        ("amqp://u:hush/secret-canary@h/", "/ as %2F"),
        ("amqp://u:hush@secret-canary@h/", "@ as %40"),
        ("amqp://u:secret-canary@h?cafile=/x", "amqps"),
        ("amqps://u:secret-canary@h?no_verify_ssl=false", "0 or 1"),
        ("amqp://u:secret-canary@[::1", "broker address"),
        ("embeded", "embedded"),
    ],
)
def test_what_is_no_address_is_refused_in_words_that_keep_its_secret(text: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=says) as caught:
        parse_address(text)
    assert CANARY not in str(caught.value)
