"""The page in Chromium: time to the first picture, frames dropped while all videos play in step, how soon all follow.

    python benchmarks/page.py                        40 videos of two minutes, 480x270
    python benchmarks/page.py --videos 8 --seconds 20
    python benchmarks/page.py --folder DIR           videos that are there already (and are made there if not)

Needs chromium and chromedriver (apt-get install chromium chromium-driver) and selenium. That what is shown is right is
what tests/page checks, picture by picture. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lacray.config import build
from lacray.run import Run, execute

RATE, WIDTH, HEIGHT = 25, 480, 270
DISTINCT = 5
"""Videos that differ; the others are copies, which the page cannot know."""

OBSERVE = """
window.seen = {frames: [], last: performance.now()};
const tick = (now) => { seen.frames.push(now - seen.last); seen.last = now; requestAnimationFrame(tick); };
requestAnimationFrame(tick);
window.quality = () => [...document.querySelectorAll('video')].map((video) => video.getVideoPlaybackQuality())
  .reduce((sum, one) => [sum[0] + one.totalVideoFrames, sum[1] + one.droppedVideoFrames], [0, 0]);
"""
FIRST = """
const done = arguments[0];
const look = () => {
  const all = [...document.querySelectorAll('.tile img, .tile video')];
  const pictures = all.filter((one) => one.naturalWidth || one.videoWidth);
  if (pictures.length) done([performance.now(), pictures.length]); else requestAnimationFrame(look);
};
look();
"""
SCRUBBED = """
const [share, done] = arguments;
const box = document.getElementById('strip').getBoundingClientRect();
const at = {clientX: box.left + share * box.width, clientY: box.top + 5, button: 0, bubbles: true, pointerId: 1};
const strip = document.getElementById('strip');
strip.setPointerCapture = () => {};
const visible = [...document.querySelectorAll('.tile')].filter((tile) => {
  const place = tile.getBoundingClientRect();
  return place.bottom > 0 && place.top < innerHeight && !tile.classList.contains('is-absent');
}).map((tile) => tile.querySelector('video'));
const start = performance.now();
strip.dispatchEvent(new PointerEvent('pointerdown', at));
strip.dispatchEvent(new PointerEvent('pointerup', at));
const look = () => {
  if (visible.some((video) => video.seeking)) setTimeout(look, 2);
  else done([performance.now() - start, visible.length]);
};
setTimeout(look, 0);
"""


def write_video(path: Path, num_frames: int, seed: int) -> None:
    """A spot on a closed way, at a pace of its own, under noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 18, (8, HEIGHT, WIDTH), dtype=np.uint8)
    pace = np.cumsum(1 + 0.6 * np.sin(np.linspace(0, 9 + seed, num_frames)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "26", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, share in enumerate(pace / pace[-1]):
            frame = np.full((HEIGHT * 3 // 2, WIDTH), 128, dtype=np.uint8)
            frame[:HEIGHT] = 60 + noise[number % 8]
            x, y = (0.5 + 0.4 * np.cos(7 * share), 0.5 + 0.4 * np.sin(5 * share))
            left, top = int(x * (WIDTH - 60)), int(y * (HEIGHT - 60))
            frame[top : top + 60, left : left + 60] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
        container.mux(stream.encode())


def make_videos(folder: Path, number: int, seconds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        path = folder / f"take{index:02d}.mp4"
        if path.exists():
            continue
        if index < DISTINCT:
            write_video(folder / f"{path.name}.part.mp4", seconds * RATE, index)
            (folder / f"{path.name}.part.mp4").rename(path)
        else:
            shutil.copy(folder / f"take{index % DISTINCT:02d}.mp4", path)


def train(folder: Path) -> Path:
    """A checkpoint, from a few steps on short videos of the same kind."""
    for seed in range(4):
        if not (folder / "short" / f"{seed}.mp4").exists():
            (folder / "short").mkdir(parents=True, exist_ok=True)
            write_video(folder / "short" / f"{seed}.mp4", 150, seed)
    values = {
        "data.root": str(folder / "short"),
        "data.validation_share": 0.0,
        "fit.epochs": 3,
        "fit.steps_per_epoch": 10,
    }
    config = build({**values, "fit.evaluate_every": 3})
    run = Run(config.flat(), str(folder / "results"), "train", "page", "train", keep_checkpoint=True)
    for _ in execute(run, device=torch.device("cpu")):
        pass
    return folder / "results" / "train" / "checkpoints" / "page.pt"


def browser(width: int, height: int) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    return driver


def wait_until_ready(driver: webdriver.Chrome, seconds: float) -> float:
    start = time.perf_counter()
    while "in step" not in driver.find_element(By.ID, "said").text:
        assert time.perf_counter() - start < seconds, driver.find_element(By.ID, "said").text
        time.sleep(0.5)
    return time.perf_counter() - start


def measure(driver: webdriver.Chrome, address: str, play_s: float, result: dict[str, Any]) -> None:
    started = time.perf_counter()
    driver.get(address)
    first, _ = driver.execute_async_script(FIRST)
    result["first_picture_ms"] = first
    result["page_loaded_s"] = time.perf_counter() - started
    result["all_ready_s"] = wait_until_ready(driver, 3600)
    # From here on with what is cached, as on every later day.
    driver.get(address)
    result["first_picture_cached_ms"], _ = driver.execute_async_script(FIRST)
    wait_until_ready(driver, 120)
    time.sleep(2)
    latencies = []
    for share in (0.1, 0.73, 0.42, 0.9, 0.25, 0.6, 0.05, 0.5):
        milliseconds, num_visible = driver.execute_async_script(SCRUBBED, share)
        latencies.append(milliseconds)
        result["videos_in_sight"] = num_visible
        time.sleep(0.3)
    result["scrub_ms"] = {"median": float(np.median(latencies)), "max": max(latencies)}
    driver.execute_script(OBSERVE)
    ActionChains(driver).send_keys(Keys.HOME).perform()
    time.sleep(1)
    before = driver.execute_script("seen.frames.length = 0; return quality()")
    ActionChains(driver).send_keys(" ").perform()
    time.sleep(play_s)
    after = driver.execute_script("return quality()")
    frames = np.array(driver.execute_script("return seen.frames"))
    ActionChains(driver).send_keys(" ").perform()
    total, dropped = (late - early for late, early in zip(after, before, strict=True))
    result["played_s"] = play_s
    result["video_frames"] = total
    result["dropped_share"] = dropped / max(total, 1)
    result["page_frames_per_s"] = len(frames) / play_s
    result["page_frame_ms"] = {"median": float(np.median(frames)), "p99": float(np.quantile(frames, 0.99))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--play", type=float, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--window", type=int, nargs=2, default=(1600, 1000))
    parser.add_argument("--picture", type=Path, help="also write a screenshot")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"videos": arguments.videos, "seconds": arguments.seconds, "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        make_videos(folder / "videos", arguments.videos, arguments.seconds)
        checkpoint = train(folder)
        command = [sys.executable, "-m", "lacray.view", str(folder / "videos"), "--checkpoint", str(checkpoint)]
        started = time.perf_counter()
        with subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True) as page:
            assert page.stdout is not None
            address = next(found[1] for line in page.stdout if (found := re.match(r"page: (\S+)", line)))
            result["started_s"] = time.perf_counter() - started
            driver = browser(*arguments.window)
            try:
                measure(driver, address, arguments.play, result)
                if arguments.picture:
                    driver.save_screenshot(str(arguments.picture))
            finally:
                driver.quit()
                page.send_signal(signal.SIGINT)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
