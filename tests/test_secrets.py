"""Secrets are known by name and by shape, in any depth, and never written; harmless names pass."""

import pytest

import artifex_keras as ak
from artifex_keras import cli
from artifex_keras.config import dump_yaml
from artifex_keras.tracking.secrets import find_secret, forbid_secrets, is_secret_name, scrubbed

KEY = "abcd1234EFGH5678abcd"

NAMES = """
    api_key apikey apiKey API_KEY X-Api-Key wandb_api_key openai.api-key OPENAI_API_KEY password
    db_password MLFLOW_TRACKING_PASSWORD passphrase token hf_token HF_TOKEN GITHUB_TOKEN accessToken
    hf.access_token refresh_token id_token x-auth-token AWS_SECRET_ACCESS_KEY awsSecretAccessKey
    secret_key client_secret private_key credentials Authorization bearer Cookie set-cookie
""".split()
HARMLESS = """
    pad_token_id end_token_id max_new_tokens tokens num_tokens tokenizer tokenizer_path tokenized
    token_embedding end_token pad_token eos_token mask_token image_token secret_santa.csv secretary
    key keys prompt_key completion_key num_kv_heads key_dim public_key cache_key monkey keyboard
    bypass passes author cookies_per_row cookie_recipes
""".split()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name):
    assert is_secret_name(name)
    assert find_secret({"tags": [{name: "short"}]}) == f"tags.{name}"
    assert find_secret(f"https://host/path?page=2&{name}=x#top")


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_names(name):
    assert not is_secret_name(name)
    assert find_secret({name: "short", "source": name, "at": f"https://host/?{name}=x"}) is None


SECRETS = [
    "https://TOKEN@host/path",
    "https://me:word@host",
    "postgresql://me:word@host/runs",
    "redis://:word@host",
    "https://host/runs?api_key=word",
    "https://host/runs?page=2&token=word",
    f"https://host/runs?X-Amz-Signature={KEY}",
    f"https://host/blob?sv=2020&sig={KEY}%3D",
    "Server=host;Password=word",
    "Authorization: Bearer word-word",
    f"Bearer {KEY}",
    "Basic dXNlcjpwYXNz",
    "machine host login me password word",
    "Cookie=session-word",
    f"hf_{KEY}",
    f"sk-{KEY}",
    f"sk-proj-{KEY}",
    f"sk-ant-api03-{KEY}",
    f"ghp_{KEY}",
    f"github_pat_{KEY}",
    f"glpat-{KEY}",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234567890-abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    "-----BEGIN RSA PRIVATE KEY-----\nMII",
]


@pytest.mark.parametrize("text", SECRETS, ids=range(len(SECRETS)))
def test_shapes_of_secrets(text, tmp_path):
    assert find_secret({"tracking": {"mlflow": {"at": ["x", (text,)]}}}) == "tracking.mlflow.at"
    assert find_secret({"data": {text: 1}}) == "data"  # the secret isn't in the place
    assert "***" in scrubbed(text) and find_secret(scrubbed(text).replace("***", "")) is None
    with pytest.raises(ValueError, match="`at` of the config holds a secret") as raised:
        dump_yaml({"at": text})
    assert text not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://git@github.com/me/it",
        "git@github.com:me/it",
        "sqlite:///runs@2/mlflow.db",
        "https://host/@me?page=3",
        "https://host/?tokenizer=x&max_tokens=5&key=name",
        "me@host.org",
        "end_token=</s>, lr=0.1",
        "sk-learn-digits-dataset-v2",
        "hf_models/gpt2",
        "hf_transformers_library",
        "a basic training of the bearer",
    ],
)
def test_harmless_texts(text):
    assert find_secret({"x": [text]}) is None and scrubbed(text) == text


def test_what_is_given_counts():
    for harmless in ({"token": 5}, {"api_key": None}, {"password": ""}, {"secret": False}):
        assert find_secret(harmless) is None
    assert find_secret({"password": 12345}) == "password"
    assert find_secret({"a": {"credentials": {"user": "me"}}}) == "a.credentials"
    forbid_secrets({"optimizer": {"type": "adam", "learning_rate": 1e-3}}, "the config")


def test_a_secret_of_the_environment_is_one_anywhere(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "nothing special")
    assert find_secret({"note": "it is nothing special at all"}) == "note"
    assert scrubbed("it is nothing special at all") == "it is *** at all"


def test_places_in_the_environment_are_no_secrets(tmp_path, monkeypatch):
    key = tmp_path / "key.json"
    key.write_text("{}")
    for name, place in {
        "PWD": tmp_path,  # every shell has it: a file of the working folder is no secret
        "GOOGLE_APPLICATION_CREDENTIALS": key,
        "SERVICE_TOKEN": tmp_path,
    }.items():
        monkeypatch.setenv(name, str(place))
    assert find_secret({"data": {"source": [f"{tmp_path}/x.npz", str(key)]}}) is None
    monkeypatch.setenv("PWD", "/a/folder/that/is/gone")
    assert find_secret("/a/folder/that/is/gone/x.npz") is None
    for name, value in {"MYSQL_PWD": "word-word", "DB_PASSWORD": "/no/place"}.items():
        monkeypatch.setenv(name, value)
        assert find_secret({"source": f"{value}/x.npz"}) == "source"


def test_no_config_keeps_a_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`checkpoint_dir` of the config holds a secret"):
        ak.TrainingConfig(checkpoint_dir="s3://me:word@host/runs").to_yaml("config.yaml")
    for option in (
        ["--data", "https://me:word@host/digits.npz"],
        ["--set", "tracking.mlflow.tags.hf_token=word"],
        ["--set", "tracking.wandb.settings=[https://word@host]"],
    ):
        assert cli.main(["train", "vae", *option]) == 2
        said = capsys.readouterr().err
        assert "of the config holds a secret" in said and "word" not in said
    assert not list(tmp_path.iterdir())
