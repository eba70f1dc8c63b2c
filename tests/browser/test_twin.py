"""The static twin in a browser: it steps, deletes, speaks, and shows what a model writes as text."""

import json
import random

import pytest
import torch

from smlib.data.tokenizers import arithmetic_tokenizer
from smlib.edits.actions import ActionSpace, Trajectory, final_state, replay
from smlib.edits.masking import dense_mask, trie
from smlib.generation.sampling import SamplingConfig
from smlib.policies.policy import tiny_policy
from smlib.widgets.record import record
from smlib.widgets.stepper import Stepper
from smlib.widgets.twin import frame, script, write
from tests.support.contrast import contrast

TOKENIZER = arithmetic_tokenizer()
SPACE = ActionSpace(TOKENIZER.vocab_size, eos=TOKENIZER.eos, bos=TOKENIZER.bos)
QUESTION = "In base 7, what is 6 + 4? Solution: "


INSIDE = script().replace("export default { render };", "").replace("export function", "function")
EMPTY = {"prompt": "", "steps": [], "slots": [], "settings": {}, "note": "", "error": "", "next": None}


def typed(*labels):
    """Actions by their printed form; `<` deletes, `.` ends."""
    return [{"<": SPACE.bkspc, ".": SPACE.eos}.get(x) or TOKENIZER.id(x) for x in labels]


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64)


@pytest.fixture(scope="module")
def made(policy):
    return record(
        policy, TOKENIZER, QUESTION, SamplingConfig(max_new_tokens=8), 0, forced=typed("1", "4", "<", "3", ".")
    )


def step(page, times=1):
    for _ in range(times):
        page.get_by_role("button", name="step", exact=True).click()


def test_it_steps_forward_and_back_and_strikes_out_what_is_deleted(page, made, tmp_path, artefacts):
    page.goto(write(made, tmp_path / "out.html").as_uri())
    standing, struck = page.locator(".sm-kept"), page.locator("del")
    step(page, 2)
    assert standing.all_text_contents() == ["1", "4"]
    assert "3 distinct states" in page.content()
    page.screenshot(path=artefacts / "twin.png", full_page=True)
    step(page)
    assert (standing.all_text_contents(), struck.all_text_contents()) == (["1"], ["4"])
    page.get_by_role("button", name="back").click()
    assert (standing.all_text_contents(), struck.all_text_contents()) == (["1", "4"], [])
    step(page, 3)
    assert page.get_by_text("The trajectory has ended.").is_visible()
    assert page.get_by_role("button", name="step", exact=True).get_attribute("aria-disabled") == "true"
    # One of five actions deleted and one ended: three tokens were read.
    assert page.get_by_text("Tokens read by the model after 5 actions: 3").is_visible()
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=artefacts / "twin-dark.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_keys_alone_do_it_and_a_screen_reader_is_told(page, made, tmp_path):
    page.goto(write(made, tmp_path / "out.html").as_uri())
    page.keyboard.press("Tab")
    region = page.get_by_role("region", name="Stepper")
    assert region.evaluate("node => node === document.activeElement")
    spoken = page.locator("[aria-live=polite]")
    for said in ("inserted 1", "inserted 4", "deleted a token. The text is now 1."):
        page.keyboard.press("ArrowRight")
        assert said in spoken.text_content()
    page.keyboard.press("ArrowLeft")
    assert "The text is now 14." in spoken.text_content()
    page.keyboard.press("Home")
    assert spoken.text_content() == "At the prompt."
    page.keyboard.press(" ")  # plays to the end
    page.get_by_text("The trajectory has ended.").wait_for(timeout=15_000)
    drawings = page.locator("svg[role=img]")
    assert drawings.count() >= 6
    assert all(text for text in drawings.evaluate_all("all => all.map(svg => svg.querySelector('title')?.textContent)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme, page, made, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.goto(write(made, tmp_path / "out.html").as_uri())
    step(page, 3)
    names = ("ink", "soft", "orange", "paper", "quiet", "tint")
    colours = page.evaluate(
        """names => {
            const style = getComputedStyle(document.querySelector(".sm-stepper"));
            return names.map((name) => style.getPropertyValue(`--sm-${name}`));
        }""",
        list(names),
    )
    of = dict(zip(names, map(str.strip, colours), strict=True))
    for text, ground in (
        *((text, "paper") for text in ("ink", "soft", "orange")),
        ("ink", "quiet"),  # the text so far
        ("soft", "quiet"),  # the prompt
        ("orange", "tint"),  # what was deleted
    ):
        assert contrast(of[text], of[ground]) >= 4.5, (scheme, text, ground)
    deleted = page.locator("del").first
    assert "line-through" in deleted.evaluate("node => getComputedStyle(node).textDecorationLine")  # not colour alone


def test_backspace_is_always_among_the_bars(page, made, tmp_path):
    page.goto(write(made, tmp_path / "out.html").as_uri())
    for _ in range(5):
        assert page.locator(".sm-bar.sm-delete").count() == 1
        step(page)


def test_a_policy_without_backspace_says_so_and_can_be_stepped(page, tmp_path):
    mute = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64, backspace=False)
    made = record(mute, TOKENIZER, QUESTION, SamplingConfig(max_new_tokens=6), 0, forced=typed("1", "4"))
    page.goto(write(made, tmp_path / "out.html").as_uri())
    assert page.get_by_text("This policy has no <bkspc>: what it writes stays.").is_visible()
    step(page, 2)
    assert page.locator(".sm-kept").all_text_contents() == ["1", "4"]
    assert page.locator(".sm-bar.sm-delete").count() == 0


def test_what_a_model_writes_is_text_and_not_markup(page, made, tmp_path):
    evil = json.loads(json.dumps(made))
    shout = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"><!--"
    evil["prompt"] = evil["note"] = shout
    for visit in evil["steps"]:
        visit["executed"] = visit["chosen"] = shout
        for option in visit["top"]:
            option["label"] = shout
    for slot in evil["slots"]:
        slot["label"] = shout
    page.goto(write(evil, tmp_path / "out.html", title="run").as_uri())
    step(page, 3)
    assert page.title() == "run"
    assert page.locator("img[src]").count() == 0
    assert page.locator(".sm-kept").first.text_content() == shout
    assert page.locator(".sm-prompt").text_content() == shout


def test_it_works_inside_the_frame_of_a_notebook(page, made, tmp_path):
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><title>x</title>{frame(made)}", encoding="utf-8")
    page.goto((tmp_path / "notebook.html").as_uri())
    inside = page.frame_locator("iframe")
    for _ in range(3):
        inside.get_by_role("button", name="step", exact=True).click()
    assert inside.locator("del").all_text_contents() == ["4"]


def test_the_live_stepper_answers_and_a_silent_kernel_is_spoken_of(page, policy, tmp_path):
    widget = Stepper(policy, TOKENIZER, QUESTION, SamplingConfig(max_new_tokens=8))

    def send(message):
        widget.handle(message)
        return {"record": widget.record, "cursor": widget.cursor}

    page.expose_function("ask", send)
    page.goto(write(EMPTY, tmp_path / "live.html").as_uri())
    page.evaluate("document.getElementById('stepper').replaceWith(document.createElement('main'))")
    page.evaluate("record => { window.first = record; }", widget.record)
    page.add_script_tag(
        type="module",
        content=f"""{INSIDE}
        window.deaf = false;
        const root = document.querySelector("main");
        const send = (message) => {{ if (!deaf) ask(message).then((a) => view.show(a.record, a.cursor)); }};
        const view = mount(root, {{ record: first, patience: 1500, send }});""",
    )
    typed_field, kept, struck = page.get_by_label("Type tokens yourself"), page.locator(".sm-kept"), page.locator("del")
    typed_field.fill("42")
    typed_field.press("Enter")
    page.get_by_text("action 2 of").wait_for()
    assert kept.all_text_contents() == ["4", "2"]
    page.locator(".sm-bar.sm-delete").click()
    page.get_by_text("action 3 of").wait_for()
    assert (kept.all_text_contents(), struck.all_text_contents()) == (["4"], ["2"])
    page.get_by_role("button", name="step", exact=True).click()
    page.get_by_text("action 4 of").wait_for()
    page.get_by_label("Prompt").fill("In base 5, what is 1 + 1? Solution: ")
    page.get_by_label("Prompt").press("Tab")
    page.get_by_text("action 0 of").wait_for()
    assert page.locator(".sm-prompt").text_content() == "In base 5, what is 1 + 1? Solution: "
    page.get_by_label("Seed").fill("-1")
    page.get_by_label("Seed").press("Tab")
    assert "-1 is no seed" in page.get_by_role("alert").text_content(timeout=10_000)
    typed_field.fill("1" * 20)  # more than its eight tokens
    typed_field.press("Enter")
    page.get_by_role("alert").filter(has_text="has ended").wait_for()
    assert page.get_by_text("action 0 of").count() == 1  # nothing was written, and it goes on
    page.get_by_role("button", name="step", exact=True).click()
    page.get_by_text("action 1 of").wait_for()
    page.evaluate("window.deaf = true")
    page.get_by_role("button", name="step", exact=True).click()
    page.get_by_text("The kernel does not answer").wait_for(timeout=10_000)


def test_a_page_without_scripts_tells_the_run(browser, made, tmp_path):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(write(made, tmp_path / "out.html").as_uri())
    assert "14 <bkspc> 3 <eos>" in plain.locator("body").inner_text()
    context.close()


def test_tape_tree_and_mask_of_the_script_are_replay_and_the_packed_mask(page, policy, tmp_path):
    page.goto(write(EMPTY, tmp_path / "x.html").as_uri())
    page.add_script_tag(content=f"{INSIDE}\nwindow.drawn = {{ tape, tree, mask }};", type="module")
    draws = random.Random(0)
    for _ in range(6):
        actions = [draws.choice(typed("1", "4", "<", "<")) for _ in range(12)]
        limits = SamplingConfig(max_new_tokens=16, max_actions=16)
        made = record(policy, TOKENIZER, QUESTION, limits, 0, forced=[*actions, SPACE.eos])
        for count in (0, 3, 7, 12):
            t = Trajectory.make(
                [TOKENIZER.bos, *TOKENIZER.encode(QUESTION)], [*actions[:count], SPACE.eos], space=SPACE
            )
            states = [tuple(map(int, s)) for s in replay(t, SPACE)][: count + 1]
            pieces, drawn, mask = page.evaluate(
                "([r, n]) => [drawn.tape(r, n), drawn.tree(r, n), drawn.mask(r, n)]", [made, count]
            )
            kept = "".join(p["label"] for p in pieces if p["kept"])
            assert kept == TOKENIZER.decode(final_state(t, SPACE).tolist())
            assert len(drawn["nodes"]) == len(set(states))
            assert sorted(n["visits"] for n in drawn["nodes"]) == sorted(states.count(s) for s in set(states))
            layout = trie(t, SPACE)
            n = len(mask["slots"])
            want = dense_mask(torch.tensor([[min(int(e), n) for e in layout.expiry[:n]]]))[0, 0]
            assert mask["sees"] == want.tolist()


def test_a_text_of_4_000_tokens_stays_usable(page, made, tmp_path):
    long = json.loads(json.dumps(made))
    steps = [{**long["steps"][0], "f0": 0, "f": i + 1, "executedId": 3 + i % 7} for i in range(4000)]
    slots = [{"label": "1", "position": i, "born": i, "deleted": None, "expiry": None} for i in range(4000)]
    long |= {"steps": steps, "slots": slots, "next": None}
    page.goto(write(long, tmp_path / "long.html").as_uri())
    page.get_by_text("action 0 of 4000").wait_for()
    # A view at the text's end, where the most has to be drawn.
    page.add_script_tag(type="module", content=f"{INSIDE}\nwindow.mount = mount;")
    took = page.evaluate(
        """record => {
            const root = document.createElement("div");
            document.body.append(root);
            const view = mount(root, { record, cursor: 3990 }), began = performance.now();
            for (let at = 3990; at < 4000; at++) view.show(record, at);
            return (performance.now() - began) / 10;
        }""",
        long,
    )
    assert took < 500, "milliseconds an action"
    assert page.get_by_text("action 3999 of 4000").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
