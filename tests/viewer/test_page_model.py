"""The model of a run and the writing of values, as the page has them, on known inputs."""

from __future__ import annotations

import json

import pytest

from llmprog.viewer import bundle


@pytest.fixture(scope="module")
def evaluate(browser):
    """Evaluates an expression in which ``m`` is what a module of the page exports."""
    page = browser.new_page()

    def evaluated(module, expression, *given):
        values = ", ".join(map(json.dumps, given))
        return page.evaluate(f"((m, given) => {{ return {expression}; }})({bundle.script(module)}, [{values}])")

    yield evaluated
    page.close()


MODEL = "((model) => { for (const batch of given[0]) model.apply(batch); return %s; })(new m.RunModel())"


def thought(number, parents, **options):
    usual = {"path": "", "node": "make", "sample": 0, "question": None, "goal": False, "answer": None, "at": 0.0}
    return usual | {"id": number, "parents": parents, "state": f"state {number}"} | options


def verdict(number, score, *, valid=True, questions=()):
    said = {"checker": "check", "score": score, "valid": valid, "reason": "", "questions": list(questions)}
    return {"path": "", "id": number, "by": [said]}


def call(number, question, first_sample, num_samples, **options):
    usual = {"path": "", "node": "make", "backend": "scripted", "sent_at": 0.0}
    return (
        usual | {"id": number, "question": question, "first_sample": first_sample, "num_samples": num_samples} | options
    )


TREE = {
    "begin": True,
    "run": {"id": "r", "kind": "run"},
    "searches": [{"path": "", "has_goal": True}],
    "thoughts": [thought(0, []), thought(1, [0]), thought(2, [0]), thought(3, [1]), thought(4, [2], goal=True)],
    "verdicts": [verdict(1, 0.5), verdict(2, "inf"), verdict(3, 0.0, valid=False)],
    "pruned": [{"path": "", "id": 1, "reason": "not in the beam"}],
    "finished": [{"path": "", "stopped": "goal", "thought": 4}],
}


def test_a_thought_has_its_status_score_depth_and_children(evaluate):
    wanted = "model.search('').thoughts.map((t) => [t.status, String(t.score), t.depth, t.children])"
    assert evaluate("model.js", MODEL % wanted, [TREE]) == [
        ["open", "0", 0, [1, 2]],
        ["pruned", "0.5", 1, [3]],
        ["open", "Infinity", 1, [4]],
        ["invalid", "0", 2, []],
        ["goal", "0", 2, []],
    ]


def test_the_solution_goes_back_to_the_root_by_the_best_way(evaluate):
    solution = MODEL % "[[...model.search('').solution], model.search('').isSolved]"
    assert evaluate("model.js", solution, [TREE]) == [[4, 2, 0], True]
    again = {"path": "", "id": 4, "parents": [1], "node": "make", "sample": 1, "question": None}
    better = TREE | {"arrivals": [again | {"is_best": True}]}
    assert evaluate("model.js", solution, [better]) == [[4, 1, 0], True]
    assert evaluate("model.js", solution, [TREE | {"arrivals": [again]}]) == [[4, 2, 0], True]
    unsolved = TREE | {"finished": [{"path": "", "stopped": "max_depth", "thought": 2}]}
    assert evaluate("model.js", solution, [unsolved]) == [[2, 0], False]


@pytest.mark.parametrize(("answer", "is_solved"), [("42", True), (None, False)])
def test_without_a_goal_a_search_is_solved_by_an_answer(evaluate, answer, is_solved):
    batch = {
        "searches": [{"path": "", "has_goal": False}],
        "thoughts": [thought(0, []), thought(1, [0], answer=answer)],
        "finished": [{"path": "", "stopped": "done", "thought": 1}],
    }
    assert evaluate("model.js", MODEL % "model.search('').isSolved", [batch]) is is_solved


def test_a_canvas_that_is_recorded_again_takes_the_place_of_the_first(evaluate):
    canvas = {"path": "", "question": 3, "sample": 1, "num_steps": 5}
    batches = [{"canvases": [canvas, canvas | {"sample": 2}]}, {"canvases": [canvas | {"num_steps": 9}]}]
    wanted = MODEL % "[model.canvases('').map((c) => c.num_steps), model.canvas('', 3, 2).sample, model.canvases('1')]"
    assert evaluate("model.js", wanted, batches) == [[9, 5], 2, []]


def test_a_search_that_begins_again_loses_what_it_had(evaluate):
    again = {"searches": [{"path": "", "has_goal": True}], "thoughts": [thought(0, [])]}
    assert evaluate("model.js", MODEL % "model.search('').thoughts.length", [TREE, again]) == 1


def test_a_connection_that_comes_back_begins_with_nothing(evaluate):
    wanted = MODEL % "[model.search('').thoughts.length, model.calls.size, model.isOver]"
    first = TREE | {"calls": [call(1, 1, 0, 1)], "end": True}
    assert evaluate("model.js", wanted, [first, TREE]) == [5, 0, False]


def test_the_call_of_a_thought_is_the_one_with_its_sample_that_was_answered(evaluate):
    made = thought(1, [0], question=7, sample=3)
    batch = TREE | {
        "thoughts": [thought(0, []), made],
        "calls": [call(1, 7, 0, 3), call(2, 7, 3, 2), call(3, 7, 3, 2), call(4, 8, 0, 0), call(5, 7, 3, 2, path="1")],
        "outcomes": [{"call": 2, "state": "failed"}, {"call": 3, "state": "settled"}],
        "verdicts": [verdict(1, 1.0, questions=[8])],
    }
    wanted = MODEL % (
        "[model.callOf('', model.search('').thoughts[1]).id, "
        "model.callsOf('', model.search('').thoughts[1]).map((call) => call.id), "
        "model.callOf('', model.search('').thoughts[0])]"
    )
    assert evaluate("model.js", wanted, [batch]) == [3, [3, 4], None]


def test_paths_are_in_the_order_of_rows_each_followed_by_what_is_within(evaluate):
    paths = ["10", "2/part", "2", "1", "10/a", "2/other"]
    batch = {"searches": [{"path": path, "has_goal": False} for path in paths]}
    assert evaluate("model.js", MODEL % "model.paths()", [batch]) == ["1", "2", "2/other", "2/part", "10", "10/a"]


def test_listeners_are_told_once_in_a_frame(evaluate):
    told = evaluate(
        "model.js",
        "new Promise((done) => { const model = new m.RunModel(); let count = 0; model.onChange(() => { count += 1; }); "
        "for (let i = 0; i < 100; i += 1) model.apply(given[0]); setTimeout(() => done(count), 200); })",
        {"run": {"id": "r"}},
    )
    assert told == 1


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("m.formatDuration(0.0854)", "85 ms"),
        ("m.formatDuration(0.9999)", "1.0 s"),
        ("m.formatDuration(2.44)", "2.4 s"),
        ("m.formatDuration(59.96)", "1 min"),
        ("m.formatDuration(185)", "3 min 5 s"),
        ("m.formatDuration(4799.6)", "1 h 20 min"),
        ("m.formatDuration(null)", "–"),
        ("m.formatUsd(null)", "unknown"),
        ("m.formatUsd(0)", "$0"),
        ("m.formatUsd(0.00123)", "$0.0012"),
        ("m.formatUsd(12.345)", "$12.35"),
        ("m.formatScore('inf')", "∞"),
        ("m.formatScore('-inf')", "−∞"),
        ("m.formatScore('__proto__')", "–"),
        ("m.formatScore(-0.123456)", "−0.1235"),
        ("m.formatScore(1234567)", "1,234,567"),
        ("m.formatShare(0.999)", "99.9 %"),
        ("m.formatShare(0.0042)", "0.4 %"),
        ("m.formatShare(1)", "100 %"),
        ("m.formatPlural(1, 'call')", "1 call"),
        ("m.formatPlural(1200, 'call')", "1,200 calls"),
        ("m.shorten('  a\\n b  ', 10)", "a b"),
        ("m.shorten('x'.repeat(50), 10)", "xxxxxxxxx…"),
    ],
)
def test_values_are_written_as_people_read_them(evaluate, expression, written):
    assert evaluate("text.js", expression) == written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("größer 中文 🙂", "größer 中文 🙂"),
        ("a\x00b\x1b[31m", "a\\x00b\\x1b[31m"),
        ("\u202egnp.exe", "\\u{202e}gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u{200b}width\\u{feff}"),
        ("one\r\ntwo\rthree", "one\ntwo\\x0dthree"),
        ("\u2028\U000e0041\ue000", "\\u{2028}\\u{e0041}\\u{e000}"),
        ("\ud800 alone", "\\u{d800} alone"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_an_escape(evaluate, text, shown):
    assert evaluate("text.js", "m.visible(given[0])", text) == shown


def test_children_that_are_text_stay_text(evaluate):
    made = evaluate("text.js", "m.el('p', {title: given[0]}, given[0], null, false, [1, [given[0]]]).innerHTML", "<b>&")
    assert made == "&lt;b&gt;&amp;1&lt;b&gt;&amp;"


@pytest.mark.parametrize("props", [{"style": "color: red"}, {"onclick": "alert(1)"}, {"href": "javascript:alert(1)"}])
def test_an_element_takes_no_style_no_handler_and_no_foreign_link_as_an_attribute(evaluate, props):
    attempt = "(() => { try { m.el('a', given[0]); return ''; } catch (error) { return error.message; } })()"
    assert evaluate("text.js", attempt, props) != ""


def test_an_answer_that_is_final_is_asked_for_once_and_a_failure_again(evaluate):
    asked = (
        "(async () => { const asked = []; let works = false; "
        "const ask = async (n) => { asked.push(n); if (!works) throw new Error('no'); return n; }; "
        "const load = m.remembered(ask, (n) => n < 10); "
        "await load(1).catch(() => null); works = true; await load(1); await load(1); await load(20); await load(20); "
        "return asked; })()"
    )
    assert evaluate("source.js", asked) == [1, 1, 20, 20]
