"""The page in a real Chromium: it plays, scrubs, labels and saves, and loads nothing from anywhere else."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from datasets import write_video
from takes import BITS, HEIGHT, ROW, TAKES

from lacray.apply import EmbeddedVideo, Model, load

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the dev extra")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAMES = sorted(f"videos/{name}" for name in TAKES)

# What each tile (and the stage, first) shows: the number in the picture on the screen, in one look.
NUMBERS = """
const read = (video) => {
  if (!video || video.readyState < 2) return -1;
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(video, 0, 0);
  const [width, height] = [canvas.width, canvas.height];
  const row = context.getImageData(0, Math.round(height * (1 - ROW)) - 1, width, 1).data;
  let number = 0;
  for (let bit = 0; bit < BITS; bit += 1) {
    if (row[4 * Math.round((bit + 0.5) * width / BITS)] > 125) number += 2 ** bit;
  }
  return number;
};
return [document.getElementById('film'), ...document.querySelectorAll('.tile video')].map(read);
""".replace("ROW", str(ROW / HEIGHT / 2)).replace("BITS", str(BITS))
FILM_SIZES = """
const [done] = arguments;
const sources = [...document.querySelectorAll('.tile video')].map((video) => video.src);
const sizeOf = (answer) => +answer.headers.get('Content-Length');
Promise.all(sources.map((source) => fetch(source, {method: 'HEAD'}).then(sizeOf))).then(done);
"""
COLOURS = """
const canvas = document.querySelector('#table canvas');
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
return new Set(Array.from({length: data.length / 4}, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
"""


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The command itself: (address, data set)."""
    root = tmp_path_factory.mktemp("browser") / "my takes"
    shutil.copytree(trained[0], root)
    with viewed(root, trained[1]) as address:
        yield address, root


@contextmanager
def viewed(root: Path, results: Path) -> Iterator[str]:
    """The page of a folder by the command, as long as it is needed: its address."""
    checkpoint = next(results.glob("*/checkpoints/*.pt"))
    command = [sys.executable, "-m", "lacray.view", str(root), "--checkpoint", str(checkpoint), "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as run:
        assert run.stdout is not None
        address = ""
        for line in run.stdout:
            if found := re.match(r"page: (http://127\.0\.0\.1:\d+/\S+/)$", line):
                address = found[1]
                break
        assert address, "the command has ended"
        try:
            yield address
        finally:
            run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
        "--mute-audio",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_path))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, page) -> Iterator[object]:
    """The page, loaded anew, with all films and all alignments of the first video."""
    browser.get(page[0])
    until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
    until(lambda: min(browser.execute_script(NUMBERS)) >= 0, "the films")
    until(lambda: "in step" in browser.find_element(By.ID, "said").text, "the alignments")
    yield browser
    browser.execute_script("window.onbeforeunload = null; document.getElementById('save').classList.remove('dirty')")


def until(is_so: Callable[[], object], what: str = "the page", seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def settled(browser) -> list[int]:
    """The numbers on the screen, once they no longer change."""
    last: list[int] = []
    same = 0
    for _ in range(400):
        now = browser.execute_script(NUMBERS)
        is_seeking = browser.execute_script("return [...document.querySelectorAll('video')].some((v) => v.seeking)")
        same = same + 1 if now == last and not is_seeking else 0
        if same == 10:
            return now
        last = now
        time.sleep(0.05)
    raise AssertionError("the pictures do not come to rest")


def press(browser, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def press_with_control(browser, key: str) -> None:
    ActionChains(browser).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()


def press_with_shift(browser, key: str) -> None:
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()


@pytest.fixture(scope="module")
def model(trained) -> Model:
    return load(next(trained[1].glob("*/checkpoints/*.pt")))


@pytest.fixture(scope="module")
def embedded(trained, model) -> list[EmbeddedVideo]:
    """All videos, by the model itself."""
    return [model.read(str(trained[0] / name)) for name in NAMES]


@pytest.fixture(scope="module")
def places(model, embedded) -> Callable[[int, int], np.ndarray]:
    """The places of one video's frames in another, by the model itself."""
    return lambda a, b: model.align(embedded[a], embedded[b], stride=1).a_to_b


def check_in_step(numbers: list[int], reference: int, places, *, tolerance: float) -> int:
    """Every tile shows the counterpart of what the stage shows; how many have one."""
    frame = numbers[0]
    num = 0
    for index, number in enumerate(numbers[1:]):
        place = float(frame) if index == reference else places(reference, index)[frame]
        if not np.isnan(place):
            num += 1
            assert abs(number - place) <= tolerance, f"video {index} shows {number} at frame {frame} of the reference"
    return num


def test_others_follow_within_a_frame_of_the_alignment_when_one_is_scrubbed(shown, places):
    browser = shown
    num = 0
    strip = browser.find_element(By.ID, "strip")
    for share in (0.13, 0.9, 0.5, 0.34):
        box = strip.rect
        ActionChains(browser).move_to_element_with_offset(
            strip, round((share - 0.5) * box["width"]), 0
        ).click().perform()
        numbers = settled(browser)
        assert abs(numbers[0] - share * len(places(0, 1))) <= 1.5  # a pixel is a part of a frame
        num += check_in_step(numbers, 0, places, tolerance=0.5)
    assert num > 8  # of 4 x 4
    before = settled(browser)[0]
    press(browser, Keys.ARROW_LEFT)
    assert settled(browser)[0] == before - 1
    press(browser, Keys.HOME)
    assert settled(browser)[0] == 0


def test_the_video_that_is_scrubbed_leads(shown, places):
    browser = shown
    tile = browser.find_elements(By.CSS_SELECTOR, ".tile")[2]
    strip = tile.find_element(By.CSS_SELECTOR, ".strip")
    ActionChains(browser).move_to_element_with_offset(strip, 0, 0).click().perform()
    until(lambda: "reference" in tile.get_attribute("class"))
    until(lambda: "in step" in browser.find_element(By.ID, "said").text)
    until(lambda: min(browser.execute_script(NUMBERS)) >= 0)
    numbers = settled(browser)
    assert abs(numbers[0] - len(places(2, 0)) / 2) <= 1
    assert check_in_step(numbers, 2, places, tolerance=0.5) >= 2
    assert browser.find_element(By.ID, "title").text == NAMES[2]


def test_it_plays_in_step_and_stops_exactly(shown, places):
    browser = shown
    press(browser, Keys.HOME)
    settled(browser)
    browser.execute_script("document.getElementById('speed').value = '0.25'")
    press(browser, " ")
    seen = []
    for _ in range(12):
        time.sleep(0.2)
        seen.append(browser.execute_script(NUMBERS))
    press(browser, " ")
    frames = [numbers[0] for numbers in seen]
    assert frames == sorted(frames)
    assert 8 <= frames[-1] - frames[0] <= 25  # 2.2 seconds at a quarter of 25 frames a second are 14
    # A follower has 80 ms until it is told, and half a second to make up for it.
    late = seen[4:]
    num = sum(check_in_step(numbers, 0, places, tolerance=3) for numbers in late)
    assert num >= 2 * len(late)
    assert check_in_step(settled(browser), 0, places, tolerance=0.5) >= 2


def test_a_segment_is_marked_carried_to_all_and_saved(shown, page, places):
    browser = shown
    root = page[1]
    lengths = [len(places(index, 0)) for index in range(4)]
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 2, "i", *[Keys.ARROW_RIGHT] * 7, "o")
    assert "selected: frames 2 to 9" in browser.find_element(By.ID, "selected").text
    browser.find_element(By.ID, "add-phase").click()
    press(browser, "reach out", Keys.ENTER)
    key = browser.find_element(By.CSS_SELECTOR, "[data-phase='reach out']").get_attribute("data-key")
    press(browser, key)
    assert browser.find_element(By.ID, "now-phase").text == "reach out"
    press(browser, "c")
    until(lambda: browser.find_element(By.ID, "accept").is_displayed(), "what is carried")
    browser.find_element(By.ID, "accept").click()
    browser.find_element(By.ID, "as-elan").click()
    (root / "before.csv").write_bytes((root / "segments.csv").read_bytes())
    press_with_control(browser, "s")
    until(lambda: "Saved: segments.csv" in browser.find_element(By.ID, "toast").text, "the answer")
    with (root / "segments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {r["video"]: (int(r["start_frame"]), int(r["end_frame"])) for r in rows if r["phase"] == "reach out"}
    assert found[NAMES[0]] == (2, 10)
    assert len(found) >= 3
    labelled = {r["video"]: [] for r in rows}
    for name, segment in found.items():
        index = NAMES.index(name)
        if index == 0:
            continue
        inside = [frame for frame, place in enumerate(places(index, 0)) if 2 <= place < 10]
        # Labels that were there stay: the carried ones take what is free.
        taken = {
            f
            for r in rows
            if r["video"] == name and r["phase"] != "reach out"
            for f in range(int(r["start_frame"]), int(r["end_frame"]))
        }
        free = [frame for frame in range(min(inside), max(inside) + 1) if frame not in taken]
        assert segment == (free[0], free[-1] + 1)
        assert segment[1] <= lengths[index]
    assert labelled.keys() >= set(found)
    assert next(root.glob("segments.csv.*.bak")).read_bytes() == (root / "before.csv").read_bytes()
    assert sorted(path.suffix for path in (root / "labels").rglob("*.eaf")) == [".eaf"] * len(labelled)
    # After a reload it is there.
    browser.get(page[0])
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "[data-phase='reach out']"), "the labels after a reload")


def test_marks_can_be_undone_and_a_digit_begins_and_ends_a_phase(shown):
    browser = shown
    press(browser, Keys.END)
    before = browser.find_element(By.ID, "now-phase").text
    assert before == ""
    press(
        browser,
        Keys.ARROW_LEFT,
        Keys.ARROW_LEFT,
        Keys.ARROW_LEFT,
        "1",
        Keys.ARROW_RIGHT,
        Keys.ARROW_RIGHT,
        "2",
        Keys.END,
        "2",
    )
    phase = lambda: browser.find_element(By.ID, "now-phase").text  # noqa: E731
    names = [button.get_attribute("data-phase") for button in browser.find_elements(By.CSS_SELECTOR, "[data-phase]")]
    assert phase() == names[1]
    press(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert phase() == names[0]
    press_with_control(browser, "z")
    press_with_control(browser, "z")
    assert phase() == ""


def test_a_click_on_the_picture_finds_its_nearest_moments(shown):
    browser = shown
    browser.find_element(By.ID, "screen").click()
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#nearest li")) == 3, "the nearest moments")
    pictures = (
        "return [...document.querySelectorAll('#nearest img')].every((img) => img.complete && img.naturalWidth > 0)"
    )
    until(lambda: browser.execute_script(pictures), "their pictures")
    name = browser.find_element(By.CSS_SELECTOR, "#nearest button span").text
    browser.find_element(By.CSS_SELECTOR, "#nearest button").click()
    until(lambda: browser.find_element(By.ID, "title").text.endswith(name), "the video that was chosen")


def test_n_finds_the_nearest_moments_of_the_frame_that_is_shown(shown, embedded):
    browser = shown
    assert not browser.find_element(By.ID, "panel-nearest").is_displayed()
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 17, "n")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#nearest li")) == 3, "the nearest moments")
    assert browser.find_element(By.ID, "panel-nearest").is_displayed()
    assert browser.find_element(By.ID, "nearest-facts").text == "Most like take3.mp4 at 0:00.68, nearest first:"
    normed = [own.embeddings / np.linalg.norm(own.embeddings, axis=1, keepdims=True) for own in embedded]
    nearest = []
    for name, own in zip(NAMES[1:], normed[1:], strict=True):
        distances = np.linalg.norm(own - normed[0][17], axis=1)
        nearest.append((float(distances.min()), name, int(distances.argmin())))
    titles = [button.get_attribute("title") for button in browser.find_elements(By.CSS_SELECTOR, "#nearest button")]
    assert [title.partition(":")[0] for title in titles] == [f"{name}, frame {n}" for _, name, n in sorted(nearest)]


def test_delete_removes_the_segment_under_the_cursor_and_no_other(shown):
    browser = shown
    phase = browser.find_element(By.CSS_SELECTOR, "[data-key='2']").get_attribute("data-phase")
    other = browser.find_element(By.CSS_SELECTOR, "[data-key='1']").get_attribute("data-phase")

    def phases() -> list[str]:
        found = []
        for frame in (4, 6, 7, 9):
            press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * frame)
            found.append(browser.find_element(By.ID, "now-phase").text)
        return found

    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 3, "i", *[Keys.ARROW_RIGHT] * 7, "o", "1")
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 6, "i", Keys.ARROW_RIGHT, "o", "2")
    assert phases() == [other, phase, phase, other]
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 6, Keys.DELETE)
    assert browser.find_element(By.ID, "now-phase").text == ""
    assert phases() == [other, "", "", other]
    # Where there is none it does nothing, also to what can be undone.
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 6, Keys.DELETE)
    press_with_control(browser, "z")
    assert phases() == [other, phase, phase, other]
    for _ in range(2):
        press_with_control(browser, "z")
    assert not asks(browser)


def test_shift_and_arrows_go_a_second(shown):
    browser = shown
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 3)
    press_with_shift(browser, Keys.ARROW_RIGHT)
    assert settled(browser)[0] == 28, "25 frames a second"
    press(browser, Keys.ARROW_RIGHT)
    press_with_shift(browser, Keys.ARROW_LEFT)
    assert settled(browser)[0] == 4
    press_with_shift(browser, Keys.ARROW_LEFT)
    assert settled(browser)[0] == 0
    press(browser, Keys.END)
    press_with_shift(browser, Keys.ARROW_RIGHT)
    assert settled(browser)[0] == sum(TAKES["day 2/take3.mp4"]) - 1


def test_t_turns_the_light_on_and_off_and_it_stays_so(shown, page):
    browser = shown

    def brightness() -> float:
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    before = brightness()
    press(browser, "t")
    after = brightness()
    assert (before < 80) != (after < 80)
    assert (before > 180) != (after > 180)
    browser.get(page[0])
    until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
    assert brightness() == after
    press(browser, "t")
    assert brightness() == before


def test_the_table_is_drawn_and_leads_to_the_frames_under_the_pointer(shown, places):
    browser = shown
    until(lambda: browser.execute_script(COLOURS) > 20, "the table")
    table = browser.find_element(By.ID, "table")
    ActionChains(browser).move_to_element_with_offset(table, 0, round(0.25 * table.rect["height"])).click().perform()
    assert abs(settled(browser)[0] - 0.75 * len(places(0, 1))) <= 1
    for kind in ("likeness", "match"):
        browser.find_element(By.CSS_SELECTOR, f"input[value={kind}]").click()
        until(lambda: browser.execute_script(COLOURS) > 20, kind)


def test_nothing_comes_from_anywhere_else_and_nothing_goes_wrong(shown, page):
    browser = shown
    press(browser, "t", "?")
    until(lambda: browser.find_element(By.ID, "help").is_displayed())
    press(browser, Keys.ESCAPE)
    addresses = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(addresses) > 8
    assert [address for address in addresses if not address.startswith(page[0])] == []
    # Of the rendering it warns of these tests themselves, which read pictures back.
    told = [entry for entry in browser.get_log("browser") if entry["source"] != "rendering"]
    assert [entry for entry in told if entry["level"] in ("SEVERE", "WARNING")] == []


def asks(browser) -> bool:
    """Whether the tab would ask before it is closed."""
    return browser.execute_script("return !window.dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def saved_of(root: Path, name: str) -> list[tuple[int, int, str]]:
    with (root / "segments.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["video"] == name]
    return [(int(row["start_frame"]), int(row["end_frame"]), row["phase"]) for row in rows]


def save(browser) -> str:
    """What is said once it was saved."""
    browser.execute_script("document.getElementById('toast').hidden = true")
    press_with_control(browser, "s")
    until(lambda: browser.find_element(By.ID, "toast").is_displayed(), "the answer")
    return browser.find_element(By.ID, "toast").text


def test_a_phase_that_is_open_is_saved_and_closing_asks_about_all_that_is_not(shown, page):
    browser, root = shown, page[1]
    phase = browser.find_element(By.CSS_SELECTOR, "[data-key='1']").get_attribute("data-phase")
    assert not asks(browser)
    press(browser, Keys.END, *[Keys.ARROW_LEFT] * 5, "1")
    assert asks(browser)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "Saved: segments.csv" in save(browser)
    assert (42, 44, phase) in saved_of(root, NAMES[0])
    assert not asks(browser)
    # Another video leads: what had begun in the one before ends there, to the video's end.
    press(browser, Keys.END, "1", Keys.ENTER)
    until(lambda: browser.find_element(By.ID, "title").text != NAMES[0])
    assert asks(browser)
    save(browser)
    assert (47, 48, phase) in saved_of(root, NAMES[0])
    assert not asks(browser)


def test_closing_asks_about_what_was_carried_and_not_kept(shown):
    browser = shown
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 15, "i", *[Keys.ARROW_RIGHT] * 10, "o", "1")
    save(browser)
    assert not asks(browser)
    press(browser, "c")
    until(lambda: browser.find_element(By.ID, "accept").is_displayed(), "what is carried")
    assert asks(browser)
    assert "what was carried is not: Keep or Drop" in save(browser)
    assert asks(browser)
    press(browser, Keys.ESCAPE)
    assert not asks(browser)


def test_what_is_labelled_by_hand_after_it_was_carried_stays_when_that_is_kept(shown):
    browser = shown
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 15, "i", *[Keys.ARROW_RIGHT] * 10, "o", "1", "c")
    until(lambda: browser.find_element(By.ID, "accept").is_displayed(), "what is carried")
    press(browser, Keys.ARROW_DOWN, Keys.ENTER)
    until(lambda: browser.find_element(By.ID, "title").text == NAMES[2])
    carried = browser.find_element(By.CSS_SELECTOR, "[data-key='1']").get_attribute("data-phase")
    press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 22)
    assert browser.find_element(By.ID, "now-phase").text == carried
    press(browser, Keys.HOME, "i", Keys.END, "o", "2")
    whole = browser.find_element(By.ID, "selected").text
    assert "frames 0 to 38 (1.56 s)" in whole, "39 frames of 40 ms, the last one as long as the others"
    press(browser, "a")
    until(lambda: not browser.find_element(By.ID, "accept").is_displayed(), "what is kept")
    assert browser.find_element(By.ID, "selected").text == whole
    for _ in range(3):
        press_with_control(browser, "z")
    assert not asks(browser)


def test_the_second_of_two_tabs_asks_and_keeps_what_the_first_has_saved(shown, page):
    browser, root = shown, page[1]
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.get(page[0])
        until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
        second = browser.current_window_handle
        browser.switch_to.window(first)
        press(browser, Keys.HOME, *[Keys.ARROW_RIGHT] * 30, "i", *[Keys.ARROW_RIGHT] * 2, "o", "1")
        assert "Saved" in save(browser)
        kept = saved_of(root, NAMES[0])
        browser.switch_to.window(second)
        press(browser, Keys.ENTER)
        until(lambda: browser.find_element(By.ID, "title").text == NAMES[1])
        press(browser, Keys.END, "i", Keys.ARROW_LEFT, Keys.ARROW_LEFT, "i", "2")
        assert "were changed by something else" in save(browser)
        assert asks(browser)
        browser.find_element(By.ID, "toast-do").click()
        until(lambda: "Saved" in browser.find_element(By.ID, "toast").text, "the answer")
        assert saved_of(root, NAMES[0]) == kept
        assert saved_of(root, NAMES[1])[-1][:2] == (33, 36)
        assert not asks(browser)
        # What the first one has saved is here now, too.
        assert "Saved" in save(browser)
        assert saved_of(root, NAMES[0]) == kept
    finally:
        browser.close()
        browser.switch_to.window(first)


def test_a_page_whose_command_has_ended_gives_its_labels_as_a_file(shown, page, tmp_path):
    browser, root = shown, page[1]
    reference = browser.find_element(By.ID, "title").text
    press(browser, Keys.END, "i", Keys.ARROW_LEFT, Keys.ARROW_LEFT, "i", "2")
    browser.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    assert "lacray.view has ended: nothing can be loaded or saved any more" in save(browser)
    browser.find_element(By.ID, "toast-do").click()
    until(lambda: (tmp_path / "segments.csv").is_file(), "the file")
    last = saved_of(tmp_path, reference)[-1]
    assert last not in saved_of(root, reference)
    assert last[1] - last[0] == 3
    others = [name for name in NAMES if name != reference]
    assert [saved_of(tmp_path, name) for name in others] == [saved_of(root, name) for name in others]
    assert asks(browser)


@pytest.mark.slow
def test_films_larger_than_what_a_browser_reads_ahead_hold_nothing_up(browser, trained, tmp_path):
    """A browser has six connections: a film that it does not read on must not keep one."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 270, 480, 3), dtype=np.uint8)
    # Slow: what a player reads ahead goes with what it needs in some seconds.
    write_video(tmp_path / "noise" / "0.mp4", noise, rate=1)
    for number in range(1, 7):
        shutil.copy(tmp_path / "noise" / "0.mp4", tmp_path / "noise" / f"{number}.mp4")
    with viewed(tmp_path / "noise", trained[1]) as address:
        browser.get(address)
        until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
        until(lambda: "in step" in browser.find_element(By.ID, "said").text, "the alignments", seconds=200)
        until(lambda: min(browser.execute_script(NUMBERS)) >= 0, "the films")
        sizes = browser.execute_async_script(FILM_SIZES)
    assert min(sizes) > 15_000_000, f"too small to show it: {sizes}"
