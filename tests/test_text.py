"""Names and paths as people have them: shown as they are, obeyed by nobody, put into addresses without loss."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import optuna
import pytest
from rich.console import Console
from sqlalchemy.engine import make_url
from tiny import make_features, tiny_settings

from lacray.cli import absolute, placed, prepare_videos, shell, shown, tell, warn
from lacray.config import UserError, build, parse_assignments
from lacray.results import Place, ResultsError, check_writable, checkpoint_uri, open_checkpoint, studies
from lacray.results.s3 import bucket_and_key
from lacray.study.aside import close_all
from lacray.study.show import new_table, short, trials_table
from lacray.study.space import parse_space
from lacray.study.study import Options, Study
from lacray.study.trials import Trial
from lacray.study.view import OptunaView
from lacray.text import home_expanded, printable
from lacray.work import out_folder

# Markup of rich, emoji codes, what shells and URLs read, and what terminals obey.
ODD = [
    "x [final]",
    "[/x]",
    "[red]y[/red]",
    ":smile:",
    "a: b",
    "c #1",
    "50% ?q=1&r",
    "{n}",
    "d'e\"f",
    "$HOME `ls`",
    "é 中",
]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("fdp.\u202e4pm", "fdp.\\u202e4pm"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("é 中 👩\u200d🔬 [x] :smile: \\n", "é 中 👩\u200d🔬 [x] :smile: \\n"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, said):
    assert printable(text) == said
    assert printable(said) == said


@pytest.mark.parametrize("name", ODD)
def test_nothing_that_is_printed_is_read_as_markup(capsys, name):
    tell(f"videos: {name}")
    warn(f"left out, {name}: is an empty file")
    assert capsys.readouterr().out == f"videos: {name}\nleft out, {name}: is an empty file\n"
    trial = Trial(0, {"data.root": name, "encoder.weights": "\x1b[2J"}, 3)
    console = Console(width=200)
    console.print(trials_table(f"study {name}", [trial], "objective", 10))
    said = capsys.readouterr().out
    assert said.count(name) == 2
    assert "\\x1b[2J" in said
    assert new_table(name, [name]).title.plain == name
    assert short(name) == name


@pytest.mark.parametrize("name", [*ODD, "2024", "no", "1_0", "2024-05-01", "null", "~x"])
def test_a_folder_of_any_name_is_read_and_named(tmp_path, monkeypatch, capsys, name):
    root = tmp_path / "data" / name
    make_features(root, num_train=4, num_val=1)
    (root / "features" / f"{name.replace('/', '')} bad.npy").write_text("no array")
    (root / "splits.csv").unlink()
    monkeypatch.chdir(tmp_path / "data")
    settings = parse_assignments([*tiny_settings(Path(name)), "data.max_unreadable=0.3"])
    prepare_videos(build(settings), for_study=False)
    said = capsys.readouterr().out
    assert f"({name}), 1 unreadable left out" in said
    assert f"left out, videos/{name.replace('/', '')} bad.mp4: " in said


def test_a_tilde_is_a_home_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_features(tmp_path / "clips", num_train=4, num_val=1)
    prepare_videos(build(parse_assignments(tiny_settings(Path("~/clips")))), for_study=False)
    assert home_expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert absolute("~/runs") == str(tmp_path / "runs")
    assert shown("~/runs") == os.path.relpath(tmp_path / "runs")
    values = {"data.root": "~/clips", "encoder.weights": "~/w.pt", "encoder.name": "~"}
    assert placed(values) == {
        "data.root": str(tmp_path / "clips"),
        "encoder.weights": str(tmp_path / "w.pt"),
        "encoder.name": "~",
    }
    assert placed({"data.root": "simpouring", "encoder.weights": "none"})["data.root"] == "simpouring"
    check_writable("~/runs")
    assert (tmp_path / "runs").is_dir()
    assert open_checkpoint("~/runs/a.pt", tmp_path) == tmp_path / "runs" / "a.pt"


@pytest.mark.parametrize("name", ODD)
def test_results_lie_in_the_folder_that_was_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Place(name).write("s/study.json", b"{}")
    assert (tmp_path / name / "s" / "study.json").is_file()
    assert studies(name) == ["s"]
    checkpoint = Path(checkpoint_uri(name, "s", "r"))
    assert open_checkpoint(str(checkpoint), tmp_path) == tmp_path / checkpoint
    assert studies((tmp_path / name).as_uri()) == ["s"]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://bucket/runs", ("bucket", "runs")),
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/my runs #1/a?b=c/50%20%", ("bucket", "my runs #1/a?b=c/50%20%")),
        ("s3://bucket/a:b@c", ("bucket", "a:b@c")),
        ("s3://bucket/a@b/", ("bucket", "a@b")),
        ("s3://key:secret@bucket/a", None),
        ("s3://bu#cket/a", None),
        ("s3:///a", None),
    ],
)
def test_what_stands_behind_a_bucket_is_its_prefix(uri, found):
    if found is None:
        with pytest.raises(ResultsError):
            bucket_and_key(uri)
    else:
        assert bucket_and_key(uri) == found


@pytest.mark.parametrize("uri", ["s3:/bucket/a", "s3:bucket", "S3:/x", "gs:/x", "file:/x", "https:/x"])
def test_an_address_with_a_slash_too_few_is_no_folder(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="must have two slashes after its colon"):
        check_writable(uri)
    check_writable(f"./{uri}")
    assert (tmp_path / uri).is_dir()


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_empty_variable_of_a_shell_is_not_this_folder(tmp_path, monkeypatch, nothing):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="must be a local path or s3"):
        check_writable(nothing)
    with pytest.raises(UserError, match="--out: must be a folder"):
        out_folder(nothing)
    assert out_folder(".") == Path()


def test_optunas_store_lies_beside_the_results(tmp_path):
    folder = tmp_path / "".join(ODD).replace("/", "")
    space = parse_space({"name": "s", "search": {"seed": {"type": "int", "low": 0, "high": 3}}})
    url = Study("s", space, Options(str(folder))).default_storage()
    assert make_url(url).database == str(folder / "optuna.db")
    said: list[str] = []
    view = OptunaView(url, "s", "owner", space, said.append)
    view.begin([])
    close_all([view])
    assert said == []
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")) == [
        (folder / "optuna.db").relative_to(tmp_path)
    ]
    with optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}")).engine.connect():
        pass


@pytest.mark.parametrize("name", ODD)
def test_a_command_that_is_printed_can_be_pasted(name):
    words = ["python", "-m", "lacray.train", f"data.root={name}", "--results", name]
    assert shlex.split(shell(*words)) == words


def test_studies_of_one_command_tell_of_their_videos_once(plain_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = build({"data.root": str(plain_root)})
    for _ in range(2):
        prepare_videos(config, for_study=True)
    assert capsys.readouterr().out.count(f"({plain_root})") == 1
