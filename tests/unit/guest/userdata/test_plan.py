"""What is to be written, decided before a byte is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.initdata_form import pack, unpack
from guest.userdata.parse import UserFile
from guest.userdata.plan import (
    DIGEST_FILE,
    DIRECTORY,
    INIT_DATA_FILES,
    NO_INIT_DATA,
    WRITE_FILES,
    decode_init_data,
    make_plan,
)


def file(name: str, content: str = "x") -> UserFile:
    return UserFile(path=f"{DIRECTORY}/{name}", content=content)


def init_data(data: str, algorithm: str = "sha256") -> str:
    return pack(f'version = "0.1.0"\nalgorithm = "{algorithm}"\n[data]\n{data}'.encode()) + "\n"


def test_no_init_data_gives_the_published_document_and_an_empty_configuration() -> None:
    plan = make_plan((), None)
    assert NO_INIT_DATA.hex() == (
        "616c676f726974686d203d2022736861323536220a76657273696f6e203d2022302e312e30220a0a"
        "5b646174615d0a2261612e746f6d6c22203d202727270a272727"
    )
    assert unpack(plan.files["initdata"]) == NO_INIT_DATA
    assert plan.files["aa.toml"] == b""
    assert plan.digest.hex == "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d"
    assert (plan.has_init_data, plan.unwanted) == (False, ())


def test_only_listed_paths_are_taken_and_the_last_of_a_path_wins() -> None:
    foreign = [
        "/etc/passwd",
        f"{DIRECTORY}/../peerpod/aa.toml",
        f"{DIRECTORY}//aa.toml",
        f"{DIRECTORY}/policy.rego",
        f"{DIRECTORY}/initdata.digest",
        "aa.toml",
        "",
    ]
    given_files = [UserFile(path=path, content="x") for path in foreign]
    given_files += [file("apf.json", "1"), file("auth.json"), file("apf.json", "2")]
    plan = make_plan(given_files, None)
    assert set(plan.files) == {"apf.json", "auth.json", "initdata", "aa.toml", DIGEST_FILE}
    assert plan.files["apf.json"] == b"2"
    assert plan.skipped == tuple(foreign)


def test_the_digest_is_last_and_has_no_line_end() -> None:
    for files in ((), (file("initdata", init_data("")),), (file("scratch-space.marker", ""),)):
        plan = make_plan(files, None)
        assert list(plan.files)[-1] == DIGEST_FILE
        assert plan.files[DIGEST_FILE] == plan.digest.hex.encode()


@pytest.mark.parametrize("measured_only", [True, False])
def test_init_data_replaces_what_user_data_put_there(measured_only: bool) -> None:
    packed = init_data('"aa.toml" = "a"\n"cdh.toml" = "c"\n"policy.rego" = "p"\n')
    files = (file("aa.toml", "1"), file("initdata", packed), file("cdh.toml", "2"))
    plan = make_plan(files, None, measured_only=measured_only)
    held = {name: plan.files[name] for name in INIT_DATA_FILES}
    assert held == {"aa.toml": b"a", "cdh.toml": b"c", "policy.rego": b"p"}
    assert plan.files["initdata"] == packed.encode()


def test_beside_real_init_data_the_host_chooses_no_configuration_unless_told() -> None:
    packed = init_data('"policy.rego" = "p"\n')
    files = (file("aa.toml", "1"), file("cdh.toml", "2"), file("initdata", packed))
    strict, loose = (make_plan(files, None, measured_only=only) for only in (True, False))
    assert not {"aa.toml", "cdh.toml"} & set(strict.files)
    assert strict.unwanted == strict.unmeasured == ("aa.toml", "cdh.toml")
    assert (loose.files["aa.toml"], loose.files["cdh.toml"]) == (b"1", b"2")
    assert (loose.unwanted, loose.unmeasured) == ((), ())


def test_without_real_init_data_the_configuration_of_user_data_is_taken() -> None:
    plan = make_plan((file("cdh.toml", "2"),), None)
    assert plan.files["cdh.toml"] == b"2"
    again = make_plan((file("cdh.toml", "2"),), plan.files["initdata"])
    assert again.digest == plan.digest
    assert again.files["cdh.toml"] == b"2"


def test_init_data_that_is_there_already_counts_and_is_not_rewritten() -> None:
    plan = make_plan((), init_data('"aa.toml" = "a"\n').encode())
    assert dict(plan.files) == {"aa.toml": b"a", DIGEST_FILE: plan.digest.hex.encode()}
    given_now = make_plan((file("initdata", init_data('"aa.toml" = "b"\n')),), b"broken")
    assert given_now.files["aa.toml"] == b"b"


@pytest.mark.parametrize("key", ["./aa.toml", "x/../aa.toml", "/aa.toml", "../peerpod/aa.toml"])
def test_a_key_that_cleans_to_a_file_is_written(key: str) -> None:
    plan = make_plan((file("initdata", init_data(f'"{key}" = "a"\n')),), None)
    assert plan.files["aa.toml"] == b"a"


KEYS = ["../aa.toml", "x/aa.toml", "auth.json", "initdata", "initdata.digest", "", ".", "../../x"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_any_other_file_is_skipped(key: str) -> None:
    plan = make_plan((file("initdata", init_data(f'"{key}" = "a"\n')),), None)
    assert set(plan.files) == {"initdata", DIGEST_FILE}
    assert plan.foreign == (key,)


def test_two_keys_for_one_file_are_refused() -> None:
    with pytest.raises(DecodeError, match="twice"):
        make_plan((file("initdata", init_data('"aa.toml" = "a"\n"./aa.toml" = "b"\n')),), None)


@pytest.mark.spec("podvm-image", 25)
def test_the_digest_is_that_of_the_unpacked_bytes_and_other_algorithms_fail() -> None:
    import hashlib

    for algorithm in ("sha256", "sha384", "sha512"):
        packed = init_data("", algorithm)
        expected = hashlib.new(algorithm, unpack(packed.encode())).hexdigest()
        assert make_plan((file("initdata", packed),), None).digest.hex == expected
    for algorithm in ("sm3", "md5", "SHA256", ""):
        with pytest.raises(DecodeError):
            make_plan((file("initdata", init_data("", algorithm)),), None)


@pytest.mark.parametrize("content", ["", "\n", "not base64", init_data("x = 1"), "AAAA"])
def test_init_data_that_is_none_is_refused(content: str) -> None:
    with pytest.raises(DecodeError):
        make_plan((file("initdata", content),), None)


@given(
    st.lists(st.tuples(st.sampled_from([*WRITE_FILES, "x", "policy.rego"]), st.text(max_size=9))),
    st.none() | st.binary(max_size=30),
)
def test_a_plan_names_allowed_files_only(entries: list[tuple[str, str]], there: bytes) -> None:
    try:
        plan = make_plan([file(*entry) for entry in entries], there)
    except (DecodeError, UnicodeEncodeError):
        return
    assert set(plan.files) <= {*WRITE_FILES, *INIT_DATA_FILES, DIGEST_FILE}
    assert decode_init_data(plan.files.get("initdata", there)).digest() == plan.digest
