"""What uploads are made by, for callers' targets and for the operator's own storage."""

from __future__ import annotations

import json

import pytest

from handler.errors import UrlNotAllowed
from handler.pipeline.storage import LINK_S, UploadProviders, output_storage
from handler.settings import Settings, SettingsError
from handler.targets import Targets

SECRET = "canary4711secret"
KEYS = {"type": "s3", "access_key_id": "AK", "secret_access_key": SECRET}


def read(targets, **settings):
    return output_storage(Settings(output_storage=json.dumps(targets), **settings))


def test_without_a_storage_there_is_none():
    """Results are inline, or refused."""
    assert output_storage(Settings()) is None
    assert UploadProviders(Settings()).storage is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://bucket", "no JSON"),
        ('["s3"]', "one upload object"),
        ("{}", "one upload object"),
        ('{"s3": {"bucket": "b1"}, "volume": {"path": "/x"}}', "one upload object"),
        ('{"s4": {"bucket": "bbb"}}', "OUTPUT_STORAGE"),
        ('{"webhook": "x"}', "one of s3, "),
        ('{"s3": null}', "one of s3, "),
        ('{"presigned": {"url": "https://e.org/x"}}', "one of s3, "),
        ('{"htp_upload": {}}', "did you mean http_upload"),
        ('{"s3": {"prefix": "p/"}}', "s3.bucket: Field required"),
        ('{"s3": {"bucket": "b1", "prefx": "p/"}}', "did you mean prefix"),
        ('{"s3": {"bucket": "b1", "presign_s": 0}}', "s3.presign_s"),
    ],
)
def test_a_wrong_storage_stops_the_start(text, why):
    """The fault is named."""
    with pytest.raises(SettingsError, match="OUTPUT_STORAGE") as caught:
        UploadProviders(Settings(output_storage=text))
    assert why in str(caught.value)


def test_no_secret_of_it_is_told():
    """Whatever is wrong beside it."""
    with pytest.raises(SettingsError) as caught:
        read({"s3": {"bucket": "!", "auth": KEYS}})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(UploadProviders(Settings()))


@pytest.mark.parametrize(
    ("target", "settings", "linked"),
    [
        ({"s3": {"bucket": "b1"}}, {}, LINK_S),
        ({"s3": {"bucket": "b1", "presign_s": 60}}, {}, 60),
        ({"gcs_upload": {"bucket": "bbb", "auth": KEYS}}, {}, LINK_S),
        ({"gcs_upload": {"bucket": "bbb"}}, {}, None),
        ({"azure_blob_upload": {"container": "ccc"}}, {"azure_key": "k"}, LINK_S),
        ({"azure_blob_upload": {"container": "ccc"}}, {"azure_sas_token": "s"}, None),
        (
            {"azure_blob_upload": {"container": "ccc"}},
            {"azure_connection": "AccountName=a;AccountKey=k"},
            LINK_S,
        ),
        (
            {"azure_blob_upload": {"container": "ccc"}},
            {"azure_connection": "BlobEndpoint=x;SharedAccessSignature=s", "azure_key": "k"},
            None,
        ),
        (
            {"azure_blob_upload": {"container": "ccc", "auth": {"account": "abc", "key": "k"}}},
            {},
            LINK_S,
        ),
        (
            {
                "azure_blob_upload": {
                    "container": "ccc",
                    "auth": {"connection_string": "SharedAccessSignature=s"},
                }
            },
            {},
            None,
        ),
    ],
)
def test_links_are_asked_for_where_they_can_be_signed(target, settings, linked):
    """A caller may have no keys of the storage."""
    assert read(target, **settings).presign_s == linked


def test_other_storages_have_urls_of_their_own():
    """Nothing is signed there."""
    assert read({"volume": {"path": "/mnt/x"}}).path == "/mnt/x"
    assert read({"http_upload": {"url_prefix": "http://h/x"}}).kind == "http_upload"


async def test_callers_are_held_to_the_address_policy_and_the_operator_is_not(store):
    """Each has one, made when it is first asked for."""
    providers = UploadProviders(Settings())
    (target,) = Targets.model_validate({"http_upload": {"url_prefix": store.url()}}).targets()

    assert providers() is providers()
    assert providers.operators() is providers.operators()
    with pytest.raises(UrlNotAllowed):
        await providers().check([target])
    await providers.operators().check([target])
    await providers.close()
    await providers.close()


async def test_the_operator_may_name_any_folder(tmp_path):
    """ALLOW_VOLUMES is for callers."""
    text = json.dumps({"volume": {"path": str(tmp_path)}})
    providers = UploadProviders(Settings(output_storage=text))

    assert providers.storage is not None
    await providers.operators().check([providers.storage])
    await providers.close()


async def test_renewed_providers_take_the_settings_of_now(store):
    """Uploads under way keep theirs until somebody hangs up."""
    providers = UploadProviders(Settings())
    before = providers()
    text = json.dumps({"s3": {"bucket": "results"}})
    providers.renew(Settings(output_storage=text, hf_token="new"))

    assert providers.storage.bucket == "results"
    assert providers() is not before
    assert providers()._settings.sources.hf_token == "new"
    await providers.hang_up()
    with pytest.raises(SettingsError):
        providers.renew(Settings(output_storage="{"))
    await providers.close()
