"""A folder as phones and disks leave it, from the first look to the page: what is odd is said, all else works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from apply_videos import rewritten
from datasets import picture, write_csv, write_video
from paths import ROOT
from test_entry_points import environment
from test_use_commands import rows_of

from lacray import align, compare, embed, label, retrieve
from lacray.apply import load
from lacray.apply.folders import open_folder
from lacray.config import UserError
from lacray.page.board import open_board

KINDS = {"larger": "Tag 1/breit.mov", "rotated": "Tag 1/hochkant größer.mp4", "variable": "phone VFR.mkv"}
NAMES = sorted([*KINDS.values(), "Tag 2/Tag 3/mit Ton.mp4", "zwei Bilder.mp4", *(f"take {n}.mp4" for n in range(8))])


def fill(root: Path, videos: Path) -> None:
    root.mkdir()
    for number in range(8):
        shutil.copy(videos / f"take{number}.mp4", root / f"take {number}.mp4")
    for number, (kind, name) in enumerate(KINDS.items()):
        (root / name).parent.mkdir(exist_ok=True)
        rewritten(videos / f"take{number}.mp4", root / name, kind)
    (root / "Tag 2" / "Tag 3").mkdir(parents=True)
    rewritten(videos / "take5.mp4", root / "Tag 2" / "Tag 3" / "mit Ton.mp4", "with sound")
    with av.open(str(videos / "take6.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    write_video(root / "zwei Bilder.mp4", np.stack([frames[0], frames[20]]))
    (root / "kaputt.mp4").write_bytes((videos / "take7.mp4").read_bytes()[:300])
    (root / "Bild.jpg").write_bytes(picture(frames[0]))
    (root / ".versteckt.mp4").write_bytes(b"hidden")
    (root / "Notizen.txt").write_text("nothing")


def command(folder: Path, *words: str) -> str:
    env = environment({"PYTHONPATH": str(ROOT)})
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return re.sub(r"\s+", " ", done.stdout)


@pytest.mark.slow  # a minute: it trains
def test_odd_videos_go_all_the_way(tmp_path, monkeypatch, own_cache, videos_root, capsys):
    root = tmp_path / "my videos"
    fill(root, videos_root / "videos")
    said = command(tmp_path, "lacray.data", "check", "my videos")
    for told in ("kaputt.mp4", "Bild.jpg", ".versteckt.mp4", "Notizen.txt", "variable rate", "turned upright"):
        assert told in said, told
    short = ("fit.epochs=1", "fit.steps_per_epoch=4", "data.size=32", "data.num_frames=16", "encoder.hidden=32")
    said = command(tmp_path, "lacray.train", "data.root=my videos", *short)
    assert "kaputt.mp4" in said
    (checkpoint,) = map(str, (tmp_path / "results" / "train" / "checkpoints").glob("*.pt"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    embed.main([checkpoint, "my videos", "--out", "all.parquet"])
    assert "left out, kaputt.mp4" in capsys.readouterr().out
    table = pq.read_table("all.parquet")
    lengths = {}
    for name in NAMES:
        with av.open(str(root / name)) as container:
            lengths[name] = sum(1 for _ in container.decode(video=0))
    assert {name: table["video"].to_pylist().count(name) for name in NAMES} == lengths
    assert sorted(table["video"].unique().to_pylist()) == NAMES

    # All in step with one that lies on its side; names with and without their folders.
    align.main(
        [checkpoint, "hochkant größer", *(name for name in NAMES if "hochkant" not in name), "--root", "my videos"]
    )
    with av.open("alignment/together.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == lengths["Tag 1/hochkant größer.mp4"]
    assert (tmp_path / "alignment" / "breit.png").is_file()

    retrieve.main([checkpoint, "Tag 2/Tag 3/mit Ton.mp4@0.5", "my videos", "-k", "50"])
    found = rows_of(Path("moments/moments.csv"))
    assert sorted(row["video"] for row in found) == [name for name in NAMES if "mit Ton" not in name]
    # Its own pictures, encoded once more, are nearest.
    assert found[0]["video"] == "take 5.mp4"
    with pytest.raises(UserError, match=r"moment: no video 'mit Tom' in my videos; did you mean"):
        retrieve.main([checkpoint, "mit Tom@0.5", "my videos"])

    with pytest.raises(UserError, match=r"of which none is labelled; segments.csv names the labelled ones"):
        label.main([checkpoint, "my videos"])
    compare.main([checkpoint, "take 3.mp4", "my videos"])
    assert {row["phase"] for row in rows_of(Path("deviations/deviations.csv"))} == {"all"}
    with pytest.raises(UserError, match=r"reference: no video 'take 33.mp4' in my videos; did you mean take 3.mp4"):
        compare.main([checkpoint, "take 33.mp4", "my videos"])

    write_csv(
        root / "segments.csv", "video,start_seconds,end_seconds,phase", ["take 3,0.0,0.4,on", "take 3,0.4,0.9,off"]
    )
    label.main([checkpoint, "my videos"])
    carried = rows_of(Path("labels/segments.csv"))
    assert {row["video"] for row in carried} <= set(NAMES) - {"take 3.mp4"}
    assert {row["phase"] for row in carried} <= {"on", "off"}

    model = load(checkpoint)
    board = open_board(open_folder(model, "my videos"), model, checkpoint, root)
    assert sorted(shown.item.name for shown in board.shown) == NAMES
    assert any("kaputt.mp4" in note for note in board.notes)
    shapes = {shown.item.name: (shown.width, shown.height) for shown in board.shown}
    assert shapes["Tag 1/breit.mov"] == (144, 96)
    board.start()
    try:
        # Every one can be the reference, the one of two frames too.
        for number in range(len(NAMES)):
            assert board.wait_for(number, 120)
            assert not board.shown[number].trouble
    finally:
        board.close()
