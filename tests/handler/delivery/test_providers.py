"""Which uploader a target is for, and whole deliveries to real parts."""

from __future__ import annotations

import asyncio

import pytest

from handler.delivery.azure import AzureUploader
from handler.delivery.delivery import Limits
from handler.delivery.gcs import GcsUploader
from handler.delivery.http import HttpUploader
from handler.delivery.hub import HubUploader
from handler.delivery.presigned import PresignedUploader
from handler.delivery.providers import Providers, ProviderSettings, provider_settings
from handler.delivery.s3 import S3Uploader
from handler.delivery.volume import VolumeUploader
from handler.errors import InvalidPayload, UploadFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.settings import Settings, SettingsError
from handler.targets import TARGET_KINDS, Targets
from handler.transfer.sources import SourceSettings

SECRET = "canary4711secret"
KEYS = {"type": "s3", "access_key_id": "AK", "secret_access_key": SECRET}
EVERY = {
    "s3": {"bucket": "results"},
    "hf_upload": {"repo": "a/b"},
    "azure_blob_upload": {"container": "ccc"},
    "http_upload": {"url_prefix": "http://127.0.0.1/"},
    "gcs_upload": {"bucket": "bbb"},
    "presigned": {"url": "http://127.0.0.1/"},
    "volume": {"path": "/mnt"},
}
KINDS = [
    S3Uploader,
    HubUploader,
    AzureUploader,
    HttpUploader,
    GcsUploader,
    PresignedUploader,
    VolumeUploader,
]


def read(**targets):
    return Targets.model_validate(targets).targets()


@pytest.fixture
async def providers(threads, no_environment, tmp_path):
    made = []

    def make(settings=None, allow="127.0.0.1"):
        settings = settings or ProviderSettings(
            sources=SourceSettings(),
            volumes=(tmp_path / "volume",),
            limits=Limits(tries=2, backoff_s=0.001),
        )
        made.append(Providers(settings, AddressPolicy(allow), threads))
        return made[-1]

    (tmp_path / "volume").mkdir()
    yield make
    for one in made:
        await one.close()


async def test_each_kind_of_target_has_its_uploader(providers):
    """HMAC keys of Google go the way of S3."""
    made = [providers().uploader(target, "j") for target in read(**EVERY)]

    assert [type(one) for one in made] == KINDS
    assert [one.kind for one in made] == list(TARGET_KINDS)
    (target,) = read(gcs_upload={"bucket": "bbb", "auth": KEYS})
    uploader = providers().uploader(target, "j")
    assert isinstance(uploader, S3Uploader)
    assert uploader.kind == "gcs_upload"


@pytest.mark.parametrize("kind", ["s3", "hf_upload", "azure_blob_upload", "gcs_upload", "volume"])
async def test_a_provider_that_is_not_set_up_is_a_400_that_says_what_to_set(providers, kind):
    """Never an answer as if it had been stored."""
    with pytest.raises(InvalidPayload) as caught:
        await providers(ProviderSettings(sources=SourceSettings())).check(
            read(**{kind: EVERY[kind]})
        )
    assert caught.value.location == kind
    assert any(word.isupper() for word in (caught.value.hint or "").split())


async def test_addresses_are_checked_before_the_job(providers, store):
    """Of every target."""
    targets = read(http_upload={"url_prefix": store.url()}, presigned={"url": store.url("/x")})

    await providers().check(targets)
    for target in targets:
        with pytest.raises(UrlNotAllowed):
            await providers(allow="").check([target])
    assert store.puts == []


async def test_several_targets_of_one_request_are_all_served(
    providers, s3_server, store, output, tmp_path
):
    """Real parts, byte for byte, with awkward names and an early start."""
    endpoint, client = s3_server
    targets = read(
        s3={"bucket": "results", "prefix": "all/", "endpoint": endpoint, "auth": KEYS},
        http_upload={"url_prefix": store.url("/up"), "key": "{id}/{node}/{filename}"},
        volume={"path": str(tmp_path / "volume" / "out"), "prefix": "x/"},
        presigned={"urls": [store.url("/0?sig=a"), store.url("/1?sig=b")]},
    )
    one, two = output("a b猫.png", node="4"), output("film.mp4", 20_000_000, node="5")
    deliver = providers()
    await deliver.check(targets)

    async with deliver.delivery(targets, "job 1") as job:
        await job.submit(two)
        results = await job.finish([one, two])

    for place, made in enumerate((one, two)):
        body = made.path.read_bytes()
        got = client.get_object(Bucket="results", Key=f"all/{made.filename}")
        assert got["Body"].read() == body
        assert (tmp_path / "volume/out/x" / made.filename).read_bytes() == body
        assert store.files[f"/{place}"] == body
    assert store.files["/up/job%201/5/film.mp4"] == two.path.read_bytes()
    assert [stored.url for stored in results[0]] == [
        "s3://results/all/a b猫.png",
        store.url("/up/job 1/4/a b猫.png"),
        store.url("/0"),
        str(tmp_path / "volume/out/x/a b猫.png"),
    ]


async def test_a_store_that_is_out_of_order_for_a_moment_gets_the_file(providers, store, output):
    """A 500, then the file."""
    store.replies.append((500, {}, "oh"))
    targets = read(http_upload={"url_prefix": store.url("/up")})

    async with providers().delivery(targets, "j") as job:
        await job.finish([output()])

    assert len(store.puts) == 2


async def test_no_secret_is_in_an_error_though_the_server_repeats_it(providers, store, output):
    """Headers, parameters, users and signatures."""
    for fields in (
        {"http_upload": {"url_prefix": store.url("/", user=f"me:{SECRET}@")}},
        {
            "http_upload": {
                "url_prefix": store.url("/"),
                "auth": {"type": "bearer", "token": SECRET},
            }
        },
        {"presigned": {"url": store.url(f"/x?X-Amz-Signature={SECRET}")}},
        {"s3": {"bucket": "results", "endpoint": store.url(), "auth": KEYS}},
    ):
        said = f"<Error><Code>No</Code><Message>you sent {SECRET}</Message></Error>"
        store.replies.append((403, {"Content-Type": "application/xml"}, said))
        async with providers().delivery(read(**fields), "j") as job:
            with pytest.raises(UploadFailed) as caught:
                await job.finish([output()])
        assert "you sent …" in caught.value.message
        assert SECRET not in str(caught.value.envelope())
        assert SECRET not in repr(caught.value)


async def test_jobs_share_one_bound(providers, store, output):
    """However many there are."""
    store.gate = asyncio.Event()
    deliver = providers()
    targets = read(http_upload={"url_prefix": store.url()})
    jobs = [deliver.delivery(targets, str(number)) for number in range(6)]
    # Made once: an upload may be reading them.
    files = [[output(f"{job}-{part}.png", 10) for part in range(4)] for job in range(6)]
    for job, made in zip(jobs, files, strict=True):
        for one in made:
            await job.submit(one)
    while len(store.puts) < 16:
        await asyncio.sleep(0.001)
    store.gate.set()
    for job, made in zip(jobs, files, strict=True):
        await job.finish(made)
        await job.close()

    assert store.most == 16
    assert len(store.files) == 24


def test_the_operators_settings_are_taken(tmp_path):
    """Accounts, the header and its origins, folders and limits."""
    settings = Settings.from_env(
        {
            "AWS_REGION": "eu-west-1",
            "HTTP_AUTH_HEADER_NAME": "X-Key",
            "HTTP_AUTH_HEADER_VALUE": SECRET,
            "HTTP_AUTH_ALLOWED_ORIGINS": "https://e.org, http://f.org:81",
            "ALLOW_VOLUMES": f"{tmp_path}:/mnt",
            "UPLOAD_TRIES": "2",
            "UPLOAD_TIMEOUT_S": "60",
        }
    )

    made = provider_settings(settings)

    assert made.sources.s3_region == "eu-west-1"
    assert made.header_origins == {("https", "e.org", 443), ("http", "f.org", 81)}
    assert [str(path) for path in made.volumes] == [str(tmp_path), "/mnt"]
    assert (made.limits.tries, made.limits.timeout_s) == (2, 60)
    assert made.sources.s3_reserved == ""
    assert SECRET not in repr(made)
    assert provider_settings(Settings.from_env({})).header is None
    bad = {"HTTP_AUTH_HEADER_NAME": "Host", "HTTP_AUTH_HEADER_VALUE": "x"}
    with pytest.raises(SettingsError):
        provider_settings(Settings.from_env(bad))


@pytest.mark.parametrize(
    ("url", "objects", "folder"),
    [
        ("s3://b/p/q/", "b/p/q/", None),
        ("s3://b", "b/", None),
        ("/mnt/a b#c", "", "/mnt/a b#c"),
        ("file:///mnt/a%20b", "", "/mnt/a b"),
        ("", "", None),
    ],
)
def test_where_the_state_is_no_caller_has_anything_stored(url, objects, folder):
    """In a bucket or a folder, with the operator's rights."""
    made = provider_settings(Settings.from_env({"STATE_URL": url, "STATE_DIR": "/var/state"}))

    assert made.sources.s3_reserved == objects
    assert [str(path) for path in made.state_folders] == ["/var/state", *filter(None, [folder])]
