"""Curves in a notebook: those of the log, again while it grows, and a word for what cannot be read."""

import json
import math
import re
import time

import pytest
from matplotlib.figure import Figure

from smlib.training.curves import curves_of
from smlib.training.metrics import MetricsError
from smlib.widgets.curves import Watched, draw, in_words, watch


def write(run, *rows):
    run.mkdir(exist_ok=True)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.writelines(json.dumps({"step": step, **values}) + "\n" for step, values in rows)


@pytest.fixture
def run(tmp_path):
    write(tmp_path / "run", *((step, {"loss": 1.0 / step, "lr": 0.1}) for step in (5, 10, 15, 20)))
    return tmp_path / "run"


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_headless_it_is_the_figure_of_the_curves(run, monkeypatch):
    monkeypatch.setenv("SMLIB_HEADLESS", "1")
    made = watch(run)
    assert isinstance(made, Figure)
    loss, rate = visible(made)
    assert (loss.get_title(), rate.get_title()) == ("loss: 0.05", "lr: 0.1")
    assert loss.lines[0].get_xydata().tolist() == [[step, 1.0 / step] for step in (5, 10, 15, 20)]
    assert visible(watch(run / "metrics.jsonl"))[0].get_title() == "loss: 0.05"


def test_what_is_no_number_is_a_gap_with_a_cross(run):
    write(run, (25, {"loss": math.nan}), (30, {"loss": 0.5}))
    loss = visible(draw(curves_of(run)))[0]
    curve, crosses = loss.lines
    assert math.isnan(curve.get_ydata()[4])
    assert crosses.get_xdata() == [25]


def test_the_widget_follows_a_run_until_it_has_finished(run):
    watched = Watched(run, every=0.02)
    said, picture, _ = watched.box.children
    first = picture.value
    assert said.value.endswith("run: step 20")
    assert re.match(r'<img [^>]*alt="loss: 0.2 at step 5 to 0.05 at step 20. lr: 0.1', first)
    write(run, (25, {"loss": 0.01}))
    (run / "metrics.jsonl").open("a").write('{"step": 30, "lo')  # torn while it is written: no warning
    until = time.monotonic() + 30
    while picture.value == first and time.monotonic() < until:
        time.sleep(0.02)
    assert "to 0.01 at step 25" in picture.value
    assert watched.thread.is_alive()
    (run / "policy").mkdir()
    watched.thread.join(30)
    assert not watched.thread.is_alive()
    assert said.value.endswith("finished after 25 steps")


def test_a_press_ends_it(run):
    watched = Watched(run, every=0.02)
    said, _, button = watched.box.children
    button.click()
    watched.thread.join(30)
    assert not watched.thread.is_alive()
    assert said.value.endswith("step 20, no longer watched")
    assert "application/vnd.jupyter.widget-view+json" in watched._repr_mimebundle_()


def test_what_cannot_be_read_is_said_and_the_last_picture_stays(run):
    watched = Watched(run, every=60)
    said, picture, _ = watched.box.children
    before = picture.value
    log = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("<b>\n" + log)
    watched.refresh()
    assert "line 1 of" in said.value
    assert picture.value == before
    (run / "metrics.jsonl").write_text(log)
    watched.refresh()
    assert said.value.endswith("step 20")
    watched.stop()


def test_bad_input_is_named(tmp_path, run):
    with pytest.raises(MetricsError, match="there is no such run"):
        watch(tmp_path / "none")
    with pytest.raises(ValueError, match="every=0: expected seconds above 0"):
        watch(run, every=0)
    (tmp_path / "empty").mkdir()
    assert visible(watch(tmp_path / "empty", live=False)) == []
    watched = watch(tmp_path / "empty", live=True)
    assert watched.box.children[0].value.endswith("nothing is logged yet")
    watched.stop()
    (tmp_path / "trainer" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "trainer" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    with pytest.raises(MetricsError, match="logs to trackers"):
        watch(tmp_path / "trainer")


def test_every_curve_has_its_words(run):
    assert in_words(curves_of(run)) == "loss: 0.2 at step 5 to 0.05 at step 20. lr: 0.1 at step 5 to 0.1 at step 20."
