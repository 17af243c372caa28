"""Labels of BORIS and ELAN, read and written; the files here are as those programs write them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from datasets import opened, pattern, problems_of, write_csv, write_video

from lacray.data import boris, elan
from lacray.data.annotated import Labelled
from lacray.data.labels import Segment
from lacray.data.sources import source_of
from lacray.text import printable

NUM_FRAMES = 50
"""Two seconds, at 25 frames a second."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, pattern(NUM_FRAMES, size=16))
    return path.read_bytes()


@pytest.fixture
def root(tmp_path, clip) -> Path:
    """Four videos, two of one name in two folders."""
    for name in ("a.mp4", "b.mp4", "day1/c.mp4", "day2/c.mp4"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip)
    return tmp_path / "set"


def labels_of(root: Path, **fields) -> dict[str, list[tuple[str, int, int]]]:
    """(phase, first frame, last frame) of each segment, by video."""
    videos = opened(root, validation_share=0, **fields)
    (phases,) = videos.phases.values() if isinstance(videos.phases, dict) else (videos.phases,)
    found = {}
    for video in videos.training + videos.val:
        if video.labels is None:
            continue
        edges = np.flatnonzero(np.diff(video.labels, prepend=-2, append=-2))
        found[video.name] = [
            (phases[video.labels[first]], int(first), int(stop) - 1)
            for first, stop in pairwise(edges)
            if video.labels[first] >= 0
        ]
    return found


def notes_of(root: Path, **fields) -> str:
    return "\n".join(opened(root, validation_share=0, **fields).notes).replace(str(root), "ROOT")


# ---------------------------------------------------------------------------------------------------------------------
# BORIS.


def project(root: Path, observations: dict, *, name: str = "study.boris", **fields) -> Path:
    """A project with the behaviours reach, lift (states), look (a state of another category) and sip (a point)."""
    kinds = {"reach": "State event", "lift": "State event", "look": "State event", "sip": "Point event"}
    content = {
        "time_format": "hh:mm:ss",
        "project_name": "study",
        "project_format_version": "7.0",
        "subjects_conf": {},
        "behaviors_conf": {
            str(number): {"type": kind, "key": code[0], "code": code, "category": "eyes" if code == "look" else "hands"}
            for number, (code, kind) in enumerate(kinds.items())
        },
        "observations": observations,
        **fields,
    }
    path = root / name
    path.write_text(json.dumps(content))
    return path


def observation(events: list, *, files=("a.mp4",), lengths=(2.0,), **fields) -> dict:
    return {
        "file": {"1": list(files), "2": []},
        "type": "MEDIA",
        "date": "2026-01-01T10:00:00",
        "time offset": 0.0,
        "events": [[time, *rest, "", ""] for time, *rest in events],
        "media_info": {"length": dict(zip(files, lengths, strict=True)), "fps": {}, "offset": {"1": 0.0}},
        **fields,
    }


def test_states_of_a_boris_project_are_segments(root):
    events = [(0.0, "", "reach"), (0.4, "", "reach"), (0.4, "", "lift"), (0.5, "", "sip"), (1.0, "", "lift")]
    project(root, {"one": observation(events, files=("C:\\Users\\me\\old disk\\a.mp4",))})
    assert labels_of(root) == {"a.mp4": [("reach", 0, 9), ("lift", 10, 24)]}
    assert "1 point events have no length and are no phases, left out: 'sip'" in notes_of(root)
    assert "'C:\\\\Users\\\\me\\\\old disk\\\\a.mp4' is taken for" not in notes_of(
        root
    )  # the end of its path is all there is


def test_an_observation_of_several_files_is_cut_where_one_ends(root):
    events = [(1.6, "", "reach"), (2.8, "", "reach"), (2.8, "", "lift"), (3.2, "", "lift")]
    project(root, {"one": observation(events, files=("a.mp4", "b.mp4"), lengths=(2.0, 2.0))})
    assert labels_of(root) == {"a.mp4": [("reach", 40, 49)], "b.mp4": [("reach", 0, 19), ("lift", 20, 29)]}


@pytest.mark.parametrize("length", [0.0, None])
def test_a_file_without_a_length_before_others_is_refused(root, length):
    events = [(2.2, "", "reach"), (2.6, "", "reach")]
    files = ("a.mp4", "b.mp4", "day1/c.mp4")
    project(root, {"one": observation(events, files=files, lengths=(length, 2.0, 2.0))})
    said = f"must have a length for each file after which others follow, got [{length}, 2.0] seconds"
    assert said in problems_of(root)
    # That of the last file places nothing.
    project(root, {"one": observation(events, files=files, lengths=(2.0, 2.0, length))})
    assert labels_of(root) == {"b.mp4": [("reach", 5, 14)]}
    (root / "study.boris").unlink()
    source = f"player #1:{';'.join(files)}"
    header = "Observation id,Source,Media duration (s),Behavior,Behavior type,Time"
    rows = [
        f"one,{source},{length or ''};2.0;2.0,reach,{kind},{time}" for time, kind in ((2.2, "START"), (2.6, "STOP"))
    ]
    write_csv(root / "events.csv", header, rows)
    assert f"the lengths of the 3 files of observation 'one', got '{length or ''};2.0;2.0'; put" in problems_of(root)


def test_a_time_offset_of_nothing_is_none(root):
    project(root, {"one": observation([(0.4, "", "reach"), (1.0, "", "reach")], **{"time offset": None})})
    assert labels_of(root) == {"a.mp4": [("reach", 10, 24)]}


def test_a_time_offset_is_taken_off(root):
    project(root, {"one": observation([(100.4, "", "reach"), (101.0, "", "reach")], **{"time offset": 100.0})})
    assert labels_of(root) == {"a.mp4": [("reach", 10, 24)]}


def test_videos_elsewhere_live_observations_and_other_players_are_said(root):
    states = [(0.0, "", "reach"), (1.0, "", "reach")]
    several = observation(states)
    several["file"]["2"] = ["b.mp4"]
    others = {
        "one": several,
        "two": observation(states, files=("/disk/other.mp4",)),
        "three": {**observation([], files=(), lengths=()), "type": "LIVE", "file": []},
    }
    project(root, others)
    assert labels_of(root) == {"a.mp4": [("reach", 0, 24)]}
    said = notes_of(root)
    assert "1 of its videos are not in this folder: '/disk/other.mp4'" in said
    assert "observation 'three': is of no video file (live), left out" in said
    assert "labels the video of player 1; not read for 'b.mp4' of other players" in said
    project(root, {"two": observation(states, files=("/disk/other.mp4",))})
    assert "none of its videos is in this folder: '/disk/other.mp4'; the first video here is a.mp4" in problems_of(root)


def test_a_name_that_may_be_two_videos_is_refused_and_a_folder_tells(root):
    states = [(0.0, "", "reach"), (1.0, "", "reach")]
    project(root, {"one": observation(states, files=("c.mp4",))})
    assert "'c.mp4' may be day1/c.mp4 or day2/c.mp4" in problems_of(root)
    project(root, {"one": observation(states, files=("/home/x/day2/c.mp4",))})
    assert labels_of(root) == {"day2/c.mp4": [("reach", 0, 24)]}
    (root / "day1" / "c.mp4").rename(root / "c.mp4")
    project(root, {"one": observation(states, files=("/home/x/day1/c.mp4",))})
    assert "'/home/x/day1/c.mp4' may be c.mp4 or day2/c.mp4" in problems_of(root)


def test_two_observations_of_one_video_under_two_names_are_refused(root):
    states = [(0.0, "", "reach"), (1.0, "", "reach")]
    project(root, {"one": observation(states, files=("/x/a.mp4",)), "two": observation(states, files=("/y/a.mp4",))})
    assert "'/x/a.mp4' and '/y/a.mp4' would both be a.mp4" in problems_of(root)


def test_overlapping_states_are_refused_until_a_tier_is_chosen(root):
    events = [(0.0, "", "reach"), (1.0, "", "reach"), (0.4, "", "look"), (0.8, "", "look")]
    project(root, {"one": observation(events)})
    said = problems_of(root)
    assert "a.mp4: 'reach' (0 to 1 s) and 'look' (0.4 to 0.8 s) overlap, and a frame has one phase" in said
    assert "data.tier=NAME reads one of 'eyes', 'hands'" in said
    assert labels_of(root, tier="Hands") == {"a.mp4": [("reach", 0, 24)]}
    assert labels_of(root, tier="eyes") == {"a.mp4": [("look", 10, 19)]}
    assert "data.tier: must be a tier, a subject or a category of the label files, got 'feet'" in problems_of(
        root, tier="feet"
    )


def test_subjects_are_read_together_and_said(root):
    events = [(0.0, "ann", "reach"), (0.8, "ann", "reach"), (1.0, "bob", "reach"), (1.6, "bob", "reach")]
    project(root, {"one": observation(events)})
    assert labels_of(root) == {"a.mp4": [("reach", 0, 19), ("reach", 25, 39)]}
    assert "several subjects are read together: 'ann', 'bob'; data.tier=NAME reads one" in notes_of(root)
    assert labels_of(root, tier="bob") == {"a.mp4": [("reach", 25, 39)]}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([(0.0, "", "reach")], "'reach' begins at 0 s and does not end; end it in BORIS"),
        ([("0:1", "", "reach"), (1.0, "", "reach")], "must have a time in seconds, got '0:1'"),
        ([(float("nan"), "", "reach"), (1.0, "", "reach")], "must have a time in seconds, got nan"),
        ([(0.0, "", "jump"), (1.0, "", "jump")], "must be a behaviour of the project, got 'jump'"),
        ([(1.0, "", "reach"), (1.0, "", "reach")], "'reach' begins and ends at 1 s"),
        ([(-0.5, "", "reach"), (1.0, "", "reach")], "'reach' begins before the video, at -0.5 s"),
        ([(0.5, "", "reach"), (9.0, "", "reach")], "labels must not be longer than the video, got end 9 s for 2.000 s"),
    ],
)
def test_wrong_events_of_a_project_are_told(root, events, said):
    project(root, {"one": observation(events)})
    assert said in problems_of(root)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"observations": []}', "[" * 100_000, '{"behaviors_conf": {}, "observations": {"a": 1}}'],
)
def test_what_is_no_project_is_told(root, content):
    (root / "x.boris").write_text(content)
    assert "ROOT/x.boris: is no project of BORIS (" in problems_of(root)


TABULAR = "Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus"


def test_boris_tabular_events_with_their_preamble(root):
    """As version 7 writes them, here saved anew by a program with decimal commas and a mark."""
    rows = ["0,400\ta.mp4\t2,000\t25\t\treach\t\t\tSTART", "0,700\ta.mp4\t2,000\t25\t\tsip\t\t\tPOINT"]
    rows += ["1,000\ta.mp4\t2,000\t25\t\treach\t\t\tSTOP"]
    before = [
        "Observation id\tone",
        "\t\t\t",
        "Media file(s)",
        "Player #1\ta.mp4",
        "Time offset (s)\t0,2",
        "variable\tvalue",
    ]
    text = "\r\n".join([*before, TABULAR, *rows])
    (root / "one.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert labels_of(root) == {"a.mp4": [("reach", 5, 19)]}
    assert "1 point events" in notes_of(root)


def test_boris_tabular_events_of_newer_versions_and_several_files(root):
    header = "Observation id,Observation duration,Source,Time offset (s),Media duration (s),FPS,Subject,Behavior,"
    header += "Behavioral category,Modifier #1,Behavior type,Time,Media file name,Image index,Comment"
    source = "player #1:a.mp4;b.mp4"
    rows = [
        f"one,4.0,{source},0.0,2.000;2.000,25;25,No focal subject,reach,hands,{m},{kind},{time},x,NA,"
        for time, kind, m in ((1.6, "START", "l"), (1.8, "START", "r"), (2.4, "STOP", "l"), (1.9, "STOP", "r"))
    ]
    write_csv(root / "events.csv", header, [row for row in rows if ",r," not in row])
    assert labels_of(root) == {"a.mp4": [("reach", 40, 49)], "b.mp4": [("reach", 0, 9)]}
    # Two modifiers of one behaviour run side by side.
    write_csv(root / "events.csv", header, rows)
    assert "'reach' (1.6 to 2 s) and 'reach' (1.8 to 1.9 s) overlap" in problems_of(root)


AGGREGATED = "Observation id\tMedia file\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tModifiers"
AGGREGATED += "\tBehavior type\tStart (s)\tStop (s)\tDuration (s)\tComment start\tComment stop"


def test_boris_aggregated_events(root):
    rows = [
        f"{name}\t{name}.mp4\t2.0\t25\tNo focal subject\t{phase}\t\t\t{kind}\t{start}\t{stop}\t\t\t"
        for name, phase, kind, start, stop in (
            ("a", "reach", "STATE", 0.4, 1.0),
            ("b", "lift", "STATE", 1.0, 1.2),
            ("b", "sip", "POINT", 1.0, 1.0),
        )
    ]
    write_csv(root / "all.tsv", AGGREGATED, rows)
    assert labels_of(root) == {"a.mp4": [("reach", 10, 24)], "b.mp4": [("lift", 25, 29)]}
    write_csv(root / "all.tsv", AGGREGATED, [rows[0].replace("0.4", "1,x")])
    assert "all.tsv:2: must be start_(s) < stop_(s) in seconds, got '1,x' and '1.0'" in problems_of(root)


def test_a_table_of_an_observation_of_several_files_without_their_lengths_is_refused(root):
    rows = [f"one\t{file}\t4.0\t25\t\treach\t\t\tSTATE\t0.4\t1.0\t\t\t" for file in ("a.mp4", "b.mp4")]
    write_csv(root / "all.tsv", AGGREGATED, rows)
    assert "the table does not say how long they are; put the project (.boris) in its place" in problems_of(root)


def test_a_stop_without_a_start_is_told_with_its_line(root):
    (root / "one.tsv").write_text(f"{TABULAR}\n0.4\ta.mp4\t2\t25\t\treach\t\t\tSTOP\n")
    assert "one.tsv:2: STOP of 'reach' at 0.4 s, which has not begun" in problems_of(root)


# ---------------------------------------------------------------------------------------------------------------------
# ELAN.


def document(
    path: Path,
    tiers: dict[str, list[tuple[int | None, int | None, str]]],
    *,
    media: str = 'MEDIA_URL="file:///C:/old/a.mp4" RELATIVE_MEDIA_URL="./a.mp4" MIME_TYPE="video/mp4"',
    units: str = "milliseconds",
    doctype: str = "",
) -> Path:
    slots, body, number = [], [], 0
    for name, own in tiers.items():
        inside = []
        for start, end, value in own:
            number += 1
            for side, time in ((1, start), (2, end)):
                given = "" if time is None else f' TIME_VALUE="{time}"'
                slots.append(f'<TIME_SLOT TIME_SLOT_ID="ts{number}.{side}"{given}/>')
            refs = f'ANNOTATION_ID="a{number}" TIME_SLOT_REF1="ts{number}.1" TIME_SLOT_REF2="ts{number}.2"'
            inside.append(
                f"<ANNOTATION><ALIGNABLE_ANNOTATION {refs}><ANNOTATION_VALUE>{value}</ANNOTATION_VALUE>"
                "</ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        body.append(f'<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{name}">{"".join(inside)}</TIER>')
    descriptor = f"<MEDIA_DESCRIPTOR {media}/>" if media else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>{doctype}<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">'
        f'<HEADER MEDIA_FILE="" TIME_UNITS="{units}">{descriptor}</HEADER>'
        f"<TIME_ORDER>{''.join(slots)}</TIME_ORDER>{''.join(body)}</ANNOTATION_DOCUMENT>"
    )
    return path


def test_annotations_of_an_elan_document_are_segments(root):
    document(root / "x.eaf", {"hands": [(0, 400, "reach"), (400, 1000, "lift &amp; turn")], "empty": []})
    assert labels_of(root) == {"a.mp4": [("reach", 0, 9), ("lift & turn", 10, 24)]}


def test_an_elan_document_is_found_beside_its_video_and_no_file_of_it_is_passed_over(root):
    document(root / "day2" / "c.eaf", {"hands": [(0, 400, "reach")]}, media="")
    assert labels_of(root) == {"day2/c.mp4": [("reach", 0, 9)]}
    assert "passed over" not in notes_of(root)


def test_several_tiers_are_refused_until_one_is_chosen(root):
    tiers = {"hands": [(0, 400, "reach")], "eyes": [(200, 1000, "look")]}
    document(root / "x.eaf", tiers)
    assert "must have one tier to be read, got 'hands', 'eyes'; name the one that holds the phases" in problems_of(root)
    assert labels_of(root, tier="HANDS") == {"a.mp4": [("reach", 0, 9)]}
    assert "tier 'hands' is read, not 'eyes'" in notes_of(root, tier="HANDS")
    assert "got 'feet'; they have 'eyes', 'hands'" in problems_of(root, tier="feet")


def test_overlapping_annotations_of_one_tier_are_refused(root):
    document(root / "x.eaf", {"hands": [(0, 800, "reach"), (400, 1000, "lift")]})
    assert "'reach' (0 to 0.8 s) and 'lift' (0.4 to 1 s) overlap" in problems_of(root)


def test_where_the_video_begins_in_the_document_is_counted(root):
    media = 'MEDIA_URL="file:///x/a.wav" MIME_TYPE="audio/x-wav"/><MEDIA_DESCRIPTOR '
    media += 'MEDIA_URL="file:///x/a.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="200"'
    document(root / "x.eaf", {"hands": [(0, 400, "reach")]}, media=media)
    assert labels_of(root) == {"a.mp4": [("reach", 5, 14)]}


def test_a_medium_that_is_named_goes_before_the_name_of_the_document(root):
    media = 'MEDIA_URL="file:///gone/My%20Films/b.mp4" MIME_TYPE="video/mp4"'
    document(root / "a.eaf", {"hands": [(0, 400, "reach")]}, media=media)
    assert labels_of(root) == {"b.mp4": [("reach", 0, 9)]}
    document(root / "a.eaf", {"hands": [(0, 400, "reach")]}, media=media.replace("b.mp4", "z.mp4"))
    assert labels_of(root) == {"a.mp4": [("reach", 0, 9)]}
    assert "'gone/My%20Films/z.mp4' is taken for a.mp4, by its name or the label file's alone" in notes_of(root)


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ([(0, None, "reach")], "annotation a1: 'reach' must have a beginning and an end in time"),
        ([(400, 400, "reach")], "annotation a1: 'reach' must begin before it ends, got 0.4 and 0.4 s"),
        ([("1e3", 400, "reach")], "time slot ts1.1: must be milliseconds, got '1e3'"),
        ([(0, 9000, "reach")], "labels must not be longer than the video, got end 9 s for 2.000 s"),
    ],
)
def test_wrong_annotations_are_told(root, annotations, said):
    document(root / "x.eaf", {"hands": annotations})
    assert said in problems_of(root)


def test_annotations_without_a_text_are_said(root):
    document(root / "x.eaf", {"hands": [(0, 400, "reach"), (400, 800, " ")]})
    assert labels_of(root) == {"a.mp4": [("reach", 0, 9)]}
    assert "1 annotations without a text are no phases, left out" in notes_of(root)


BOMB = (
    "<!DOCTYPE x ["
    + '<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {name} "{f"&{inner};" * 40}">' for name, inner in zip("bcdefgh", "abcdefg", strict=True))
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'<?xml version="1.0"?>{BOMB}]><ANNOTATION_DOCUMENT>&h;</ANNOTATION_DOCUMENT>', "declares a document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "declares a document type"),
        ("<a>" * 5000 + "</a>" * 5000, "has elements more than 32 deep"),
        ("", "no element found"),
        ("<a><b></a>", "mismatched tag"),
        ("<html></html>", "is no document of ELAN, but XML of html"),
        ("\0\1\2", "is no document of ELAN"),
    ],
    ids=["bomb", "outside", "deep", "empty", "crossed", "other", "binary"],
)
def test_hostile_documents_are_refused(root, content, said):
    (root / "x.eaf").write_text(content)
    assert said in problems_of(root)


def test_a_document_in_frames_is_refused(root):
    document(root / "x.eaf", {"hands": [(0, 400, "reach")]}, units="PAL-frames")
    assert "must have times in milliseconds, got PAL-frames" in problems_of(root)


def test_elan_exports_with_a_line_an_annotation_or_a_column_a_tier(root):
    lines = ['"#file:///C:/day 1/a.mp4 -- offset: 0"', "Tier\tBegin Time - msec\tEnd Time - msec\tAnnotation"]
    lines += ["hands\t0\t400\treach", "hands\t400\t1000\tlift"]
    (root / "x.txt").write_text("\n".join(lines))
    assert labels_of(root) == {"a.mp4": [("reach", 0, 9), ("lift", 10, 24)]}
    (root / "x.txt").unlink()
    lines = ["Begin Time - hh:mm:ss.ms;End Time - hh:mm:ss.ms;Duration - hh:mm:ss.ms;Hands;Eyes;File Path"]
    lines += ["00:00:00,400;00:00:01,000;00:00:00,600;reach;;/old/b.eaf", "00:00:00,0;00:00:00,4;;;look;/old/b.eaf"]
    (root / "labels").mkdir()
    (root / "labels" / "y.csv").write_text("\n".join(lines))
    assert "must have one tier to be read, got 'hands', 'eyes'" in problems_of(root)
    assert labels_of(root, tier="Hands") == {"b.mp4": [("reach", 10, 24)]}


@pytest.mark.parametrize("offset", ["500", "-40"])
def test_an_elan_export_of_a_medium_with_an_offset_is_refused(root, offset):
    """ELAN adds the offset to the times, or does not, as a box of its window says."""
    lines = [f'"#file:///C:/day 1/a.mp4 -- offset: {offset}"', "Tier\tBegin Time - msec\tEnd Time - msec\tAnnotation"]
    (root / "x.txt").write_text("\n".join([*lines, "hands\t0\t400\treach"]))
    said = problems_of(root)
    assert "must be of media without an offset, since nothing says whether its times hold it" in said
    assert f"got 'file:///C:/day 1/a.mp4' by {offset} ms; put the document (.eaf) in its place" in said


def test_an_elan_export_that_says_no_times_is_refused(root):
    (root / "x.txt").write_text("Tier\tBegin Time - PAL\tAnnotation\nhands\t00:00:01:10\treach\n")
    assert "must have the columns `Begin Time` and `End Time` in msec, ss.msec or hh:mm:ss.ms" in problems_of(root)


# ---------------------------------------------------------------------------------------------------------------------
# Both, and segments.csv.


def test_segments_csv_counts_where_both_are_there(root):
    document(root / "x.eaf", {"hands": [(0, 400, "reach")]})
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", ["b,0,5,lift"])
    assert labels_of(root) == {"b.mp4": [("lift", 0, 4)]}
    assert "not read: x.eaf; labels are read from segments.csv" in notes_of(root)
    assert "data.tier: reads label files of ELAN and BORIS, got 'hands'" in problems_of(root, tier="hands")


def test_a_video_with_labels_in_two_files_is_refused(root):
    document(root / "a.eaf", {"hands": [(0, 400, "reach")]})
    project(root, {"one": observation([(0.0, "", "reach"), (1.0, "", "reach")])})
    assert "a.mp4 has labels in ROOT/" in problems_of(root)


def written(root: Path) -> dict[str, Labelled]:
    """What is written: two phases next to each other, one that comes twice in a row, and an odd name."""
    found = {}
    times = {"a.mp4": [("reach", 0, 7), ("lift", 7, 31), ("lift", 31, 50)], "day2/c.mp4": [('grüß <&> "x"', 3, 4)]}
    for name, frames in times.items():
        clock = source_of(str(root / name)).clock()
        edges = [*clock.times.tolist(), clock.end]
        segments = [Segment(edges[first], edges[stop], phase, True, "") for phase, first, stop in frames]
        found[name] = Labelled(name, root / name, clock.end, 25.0, segments)
    return found


EXPECTED = {"a.mp4": [("reach", 0, 6), ("lift", 7, 49)], "day2/c.mp4": [('grüß <&> "x"', 3, 3)]}


def test_what_is_written_for_boris_comes_back(root):
    boris.write(root / "labels" / "out.boris", list(written(root).values()))
    assert labels_of(root) == EXPECTED
    content = json.loads((root / "labels" / "out.boris").read_text())
    assert [[e[0], e[2]] for e in content["observations"]["a.mp4"]["events"]] == [
        [0.0, "reach"],
        [0.28, "reach"],
        [0.28, "lift"],
        [1.24, "lift"],
        [1.24, "lift"],
        [2.0, "lift"],
    ]
    assert {kind["code"]: kind["type"] for kind in content["behaviors_conf"].values()}["lift"] == "State event"


def test_what_is_written_for_elan_comes_back(root):
    for name, video in written(root).items():
        elan.write(root / "labels" / f"{name[:-4]}.eaf", video)
    assert labels_of(root) == EXPECTED
    tree = ElementTree.parse(root / "labels" / "day2" / "c.eaf")
    assert tree.find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL") == "../../day2/c.mp4"
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in tree.iter("TIME_SLOT")}
    (annotation,) = tree.iter("ALIGNABLE_ANNOTATION")
    assert [slots[annotation.get(f"TIME_SLOT_REF{side}")] for side in (1, 2)] == ["120", "160"]


@pytest.mark.parametrize(
    ("place", "address"), [("../labels/a.eaf", "../set/a.mp4"), ("../set/labels/a.eaf", "../a.mp4")]
)
def test_a_document_that_is_written_by_way_of_the_folder_above_names_its_video(root, monkeypatch, place, address):
    (root.parent / "here").mkdir()
    monkeypatch.chdir(root.parent / "here")
    elan.write(Path(place), written(root)["a.mp4"])
    assert ElementTree.parse(place).find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL") == address


ODD_NAMES = ("clip.mp4", "clip/clip.mp4", "b\udce4h.mp4", "new\nline.mp4", "a\x07b%41.mp4")
"""One that ends another one's path; bytes that are no UTF-8; control characters, and what looks like an escape."""


@pytest.mark.parametrize("program", ["boris", "elan"])
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_written_is_read_whatever_the_videos_are_called(tmp_path, program, outside):
    root = tmp_path / "clip" / "set"
    for number, name in enumerate(ODD_NAMES):
        write_video(root / name, pattern(20, size=16, seed=number))
    labelled = [
        Labelled(printable(name), root / name, 0.8, 25.0, [Segment(0.0, 0.2 + number / 25, "one", True, "")])
        for number, name in enumerate(ODD_NAMES)
    ]
    # Beside the videos, or written elsewhere and put there, as `label` writes them.
    place = tmp_path / "else" / "x" if outside else root / "labels"
    if program == "boris":
        boris.write(place / "out.boris", labelled)
    else:
        for video in labelled:
            elan.write(elan.path_of(place, video.name), video)
    if outside:
        place.rename(root / "labels")
    found = opened(root, validation_share=0)
    lengths = {video.name: int((video.labels == 0).sum()) for video in found.training + found.val}
    assert lengths == {printable(name): 5 + number for number, name in enumerate(ODD_NAMES)}


def test_a_phase_with_a_control_character_leaves_a_document_that_can_be_read(tmp_path):
    write_video(tmp_path / "a.mp4", pattern(20, size=16))
    segments = [Segment(0.0, 0.4, "lift\x0boff", True, "")]
    elan.write(tmp_path / "a.eaf", Labelled("a.mp4", tmp_path / "a.mp4", 0.8, 25.0, segments))
    assert [track.segments[0].phase for track in elan.read(tmp_path / "a.eaf").tracks] == ["lift\\x0boff"]
