"""From files to programs: every fault with its place, parameters, references, and that no code runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from forms import faults, program, search
from jsonschema import Draft202012Validator

from llmprog.compile import compile_program
from llmprog.errors import OptionError, SpecError
from llmprog.programs import arithmetic, catalog
from llmprog.spec import file_entry, json_schema, load_program, read_program

WRONG = """\
name: bad
colour: red
state:
  question: text
  answer: nmber
  class: text
input: quetsion
generators:
  - name: think
    prompt: "Q: {qestion} {hint}"
    num_samples: two
    sampling: {temprature: 1, top_p: 3, logprobs: yes}
    parse: {regex: {pattern: "(("}}
    into: {anser: value, answer: valu}
  - name: f
    function: os:system
  - prompt: x
checkers:
  - name: c
    rule: {equals: {field: answr, to: "{nope}"}}
    reward: high
  - name: d
    judge: {rating: {lowest: no}}
  - name: e
    kind: vote
    prompt: "{question}"
controller:
  BeamSerch: {beam_width: 5}
goal: {matches: {field: answer}}
answer: "{nope} {answer}"
key: [x]
"""

PLACES = {
    "2:1": "unknown key 'colour'; allowed: llmprog, name",
    "5:11": "'nmber'",
    "6:3": "'class' is no name for a field",
    "7:8": "no field 'quetsion'; fields: question, answer, class",
    "10:13": "unknown field {qestion}; known: question, answer, class, state, hint, dialogue; did you mean 'question'?",
    "11:18": "a whole number is wanted, not 'two'",
    "12:16": "unknown key 'temprature'",
    "12:51": "'yes' is a text here; write true or false",
    "13:30": "'((' is no regular expression: missing )",
    "14:12": "no field 'anser'",
    "16:15": "the function 'os:system' is not called",
    "17:5": "name is missing",
    "20:28": "no field 'answr'",
    "20:39": "unknown field {nope}",
    "21:13": "a number is wanted, not 'high'",
    "22:5": "no prompt; give prompt: what a model is asked to judge",
    "23:30": "a number is wanted, not 'no'",
    "26:13": "unknown field {question}; known: candidates, num_candidates",
    "28:3": "unknown key 'BeamSerch'; allowed: BeamSearch, ",
    "29:17": "pattern is missing",
    "30:9": "unknown field {nope}",
    "31:6": "no field 'x'",
}


def test_every_fault_of_a_file_is_reported_at_once_with_line_and_column() -> None:
    found = faults(WRONG, file="bad.yaml").splitlines()
    assert [line for line in found if not line.startswith("bad.yaml:")] == []
    for place, said in PLACES.items():
        there = [line for line in found if line.startswith(f"bad.yaml:{place}: ")]
        assert any(said in line for line in there), (place, said, found)
    assert len(found) <= len(PLACES) + 2


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ([1], "a mapping, key: value, is wanted, not a list"),
        (search(controller=None), "controller is missing"),
        (search(controller="SelfConsistency"), "num_samples is missing"),
        (search(controller={"BeamSearch": {"beam_width": 0, "max_depth": 1}}), "beam_width=0; allowed is a whole"),
        (search(controller={"BeamSearch": {}, "BestOfN": {}}), "give one controller, not 2"),
        (search(controller={"BestOfN": {"num_samples": 2.5}}), "a whole number is wanted, not 2.5"),
        (search(generators=[]), "generators: at least one is needed"),
        (search(state=None), "there is no state; give state: fields"),
        (search(state={"question": {"type": "integer", "default": "x"}, "answer": "text"}), "'x' is no number"),
        (search(goal={"is_number": {}}), "no field 'value'; fields: question, answer"),
        (search(goal={"every": ["not_empty"]}), "no field 'value'"),
        (search(name=""), "name: at least one is needed"),
        (search(name=24), "24 is a number where a text is wanted; quote it"),
        (search(description=True), "true is no text; quote it"),
        (search(llmprog=2), "llmprog"),
        (search(checkers=[{"name": "c"}]), "no rule, judge or function"),
        (search(checkers=[{"name": "c", "rule": {"not_empty": {"field": "answer"}}, "prompt": "x"}]), "asks no model"),
        (search(checkers=[{"name": "c", "judge": "yes_no", "prompt": "x", "reward": 1}]), "there is none"),
        (search(checkers=[{"name": "c", "kind": "vote", "judge": "rating", "prompt": "x"}]), "leave judge out"),
        (search(checkers=[{"name": "c", "kind": "vote", "prompt": "{candidates}"}]), "checker 'c' is unreachable"),
        ({"sequence": []}, "at least one is needed"),
        ({"program": "game24", "set": [1]}, "program.yaml:3:1: set: a mapping, key: value, is wanted, not a list"),
        (search(controller=5), "a controller is a name or {name: parameters}; names: BeamSearch"),
        ({"sequence": [search(parameters={"n": 1})]}, "parameters belongs to the top of the file"),
        ({"program": "game24", "set": {"beam_width": 0}}, "beam_width=0; allowed is a whole number >= 1"),
        ({"program": "game24", "set": {"beam_widht": 1}}, "did you mean 'beam_width'?"),
        ({"program": "game25"}, "unknown program 'game25' (did you mean 'game24'?); known: arithmetic"),
        ({"program": "game24", "name": "mine"}, "has its own name"),
        ({"branch": {"cases": {"a": "arithmetic"}}}, "give on: a parser of the input, or ask: a program"),
        ({"loop": {"program": "arithmetic", "until": "not_empty", "max_rounds": 0}}, "max_rounds=0"),
        ({"loop": {"program": "arithmetic", "until": {"not_empty": {"field": "answer"}}, "max_rounds": 2}}, "'answer'"),
        ({"parallel": {"programs": {"a": "arithmetic"}, "join": "{b}"}}, "unknown field {b}; known: a"),
        (search(start={"function": "builtins:str"}), "start makes states of its own; leave state out"),
        (search(generators=[{"name": "g", "function": "builtins:str", "into": "answer"}]), "leave this out"),
        (search(generators=[{"name": "g", "prompt": "x", "parse": "text"}]), "what is found goes nowhere"),
        (search(generators=[{"name": "g", "prompt": {"system": "x"}, "parse": "text", "into": "answer"}]),
         "no message; give user:"),
        (search(generators=[{"name": "g", "prompt": {"user": "x", "fill": ["a"]}, "parse": "text", "into": "answer"}]),
         "no gap; give one as {blank: 8}"),
        (search(generators=[{"name": "g", "prompt": "x", "sampling": {"top_p": 3}, "parse": "text", "into": "answer"}]),
         "top_p=3"),
        (search(checkers=[{"name": "c", "rule": {"not_empty": {"field": "answer"}}, "num_samples": 2}]), "no effect"),
        ({"apply": "last_numbr"}, "did you mean 'last_number'?"),
        ({"apply": {"json_path": {"path": "a..b"}}}, "'a..b' is no path"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_is_allowed(form: object, fault: str) -> None:
    assert fault in faults(form)


def test_faults_of_compiling_stand_at_the_node_that_they_name() -> None:
    text = (
        "state: {q: text, a: text}\ncontroller: {BestOfN: {num_samples: 1}}\ngenerators:\n"
        "  - {name: one, prompt: x, parse: text, into: a}\n  - {name: one, prompt: y, parse: text, into: a}\n"
    )
    assert faults(text, file="f.yaml").startswith("f.yaml:4:5: two nodes are named 'one'")


# ------------------------------------------------------------------------------------------ no code runs

EVIL = "never_imported_module:run"
FUNCTION_PLACES = [
    {**search(state=None, answer=None), "start": {"function": EVIL}},
    search(generators=[{"name": "g", "function": EVIL}]),
    search(generators=[{"name": "g", "prompt": {"function": EVIL}, "parse": "text", "into": "answer"}]),
    search(checkers=[{"name": "c", "function": EVIL}]),
    search(goal={"function": EVIL}),
    search(answer={"function": EVIL}),
    search(key={"function": EVIL}),
    search(explain={"function": EVIL}),
    search(controller={"SelfConsistency": {"num_samples": 1, "canonical": {"function": EVIL}}}),
    search(controller={"BestFirstSearch": {"max_thoughts": 1, "cost": {"function": EVIL}}}),
    search(controller={"TreeOfThoughtController": {"max_depth": 1, "policy": {"function": EVIL}}}),
    search(controller={"GraphOfThoughts": {"operations": {"s": {"Select": {"where": {"function": EVIL}}}}}}),
    {"apply": {"function": EVIL}},
    {"branch": {"on": {"function": EVIL}, "cases": {"a": "arithmetic"}}},
    {"loop": {"program": "arithmetic", "until": {"function": EVIL}, "max_rounds": 1}},
    {"parallel": {"programs": {"a": "arithmetic"}, "join": {"function": EVIL}}},
    {"vote": {"program": "arithmetic", "num_samples": 1, "canonical": {"function": EVIL}}},
    {"program": EVIL},
    {"sequence": [EVIL]},
]


@pytest.mark.parametrize("form", FUNCTION_PLACES, ids=str)
@pytest.mark.parametrize("evil", ["never_imported_module:run", "os:system", "evil.py:run", "builtins:eval"])
def test_no_function_is_called_or_imported_unless_its_module_is_trusted(
    form: dict[str, object], evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("never_imported_module.py", "evil.py"):
        (tmp_path / name).write_text("raise SystemExit('it ran')\ndef run(*_): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = json.dumps(form).replace(EVIL, evil)
    assert EVIL in json.dumps(form)
    with pytest.raises(SpecError) as caught:
        read_program(text, file="f.json")
    policy = "TreeOfThoughtController" in text  # there only what the library has is named at all
    assert policy or "is not trusted" in str(caught.value) or "unless its module is trusted" in str(caught.value)
    assert not {"never_imported_module", "evil"} & set(sys.modules)


def test_a_trusted_module_gives_its_own_functions_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tools.py").write_text(
        "import os\nfrom os import system\nfrom json import loads\n"
        "def shout(text: str) -> str:\n    return str(text).upper()\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert program({"apply": {"function": "my_tools:shout"}}, trust=["my_tools"]).run("a").answer == "A"
    path = str(tmp_path / "my_tools.py")
    assert program({"apply": {"function": f"{path}:shout"}}, trust=[path]).run("a").answer == "A"
    for name, said in {
        "my_tools:os.system": "has no 'os.system'",
        "my_tools:system": "which is not trusted",
        "my_tools:loads": "defined in json, which is not trusted",
        "my_tools:NUMBER": "which is no function",
        "my_tools:missing": "has no 'missing'",
        "my_tools:shout.__globals__": "is no function",
        "my_toolsx:shout": "is not called",
        "shout": "is no function; write package.module:name",
    }.items():
        assert said in faults({"apply": {"function": name}}, trust=["my_tools"]), name
    assert program({"apply": {"function": "my_tools:loads"}}, trust=["my_tools", "json"]).run("[1]").answer == [1]


def test_what_makes_values_of_texts_needs_no_trust() -> None:
    assert program({"apply": {"function": "builtins:int"}}).run("12").answer == 12


def test_a_template_cannot_reach_into_an_object() -> None:
    assert "is not a plain name" in faults(search(answer="{question.__class__}"))
    assert "is not a plain name" in faults(search(generators=[
        {"name": "g", "prompt": "{question[0]}", "parse": "text", "into": "answer"}]))  # fmt: skip


def test_a_pattern_that_takes_forever_ends_soon() -> None:
    from llmprog.backends import ScriptedBackend

    slow = {"name": "g", "prompt": "{question}", "parse": {"regex": {"pattern": "(a|aa)+$"}}, "into": "answer"}
    result = program(search(generators=[slow])).run(
        "x", backend=ScriptedBackend(lambda prompt, sample: "a" * 5000 + "!")
    )
    assert not result.solved
    assert result.wall_s < 100


# ------------------------------------------------------------------------------- parameters, names, references

SETTABLE = """\
description: |
  Answers in a voice.
  More about it.
parameters:
  num_samples: {default: 3, help: Chains drawn.}
  voice: {default: calm, choices: [calm, loud]}
  warm: true
  stop: {default: null, type: text, help: Where to stop.}
  temperature: 0.5
state: {question: text, answer: text}
generators:
  - name: reply
    prompt: "In a {voice} {{voice}}, warm: {warm}: {question}"
    num_samples: "{num_samples}"
    sampling: {temperature: "{temperature}"}
    parse: {regex: {pattern: "{voice} \\\\d{2} (.*)"}}
    into: answer
controller: {BestOfN: {num_samples: 1}}
"""


def with_parameters(parameters: str, form: dict[str, object]) -> str:
    return f"{{parameters: {parameters}, {json.dumps(form)[1:]}"


def test_parameters_are_put_in_as_values_and_into_templates(tmp_path: Path) -> None:
    path = tmp_path / "voice.yaml"
    path.write_text(SETTABLE)
    entry = file_entry(path)
    assert (entry.summary, list(entry.parameters)) == (
        "Answers in a voice.", ["num_samples", "voice", "warm", "stop", "temperature"],
    )  # fmt: skip
    assert entry.parameters["num_samples"].help == "Chains drawn."
    built = load_program(path, num_samples="4", voice="loud", temperature=1)
    (node,) = built.generators
    assert (built.name, node.n, node.params.temperature) == ("voice", 4, 1.0)
    assert node.prompt == "In a loud {{voice}}, warm: true: {question}"
    assert [state.answer for state in node.function(built.start("q"), "loud 12 yes")] == ["yes"]
    assert node.function.form.parser.pattern == r"loud \d{2} (.*)"


def test_braces_in_a_value_stay_braces_in_a_template() -> None:
    built = read_program(with_parameters("{t: ''}", search(answer="{t}: {answer}")), t="{question}")
    state = built.start("q")
    assert built.answer(state) == "{question}: "


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num": 1}, "unknown parameter of p.yaml 'num'; known: num_samples, stop, temperature, voice, warm"),
        ({"voice": "shrill"}, "voice='shrill': input should be 'calm' or 'loud'"),
        ({"num_samples": "many"}, "num_samples='many': input should be a valid integer"),
    ],
)
def test_a_value_that_a_parameter_cannot_have_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_program(SETTABLE, file="p.yaml", **values)
    assert said in str(caught.value)


def test_a_value_that_the_program_does_not_allow_is_a_fault_where_it_is_used() -> None:
    with pytest.raises(SpecError) as caught:
        read_program(SETTABLE, file="p.yaml", num_samples=0)
    assert caught.value.faults[0].startswith("p.yaml:14:18: generators[0].num_samples: ")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("{n: null}", "a default of null has no type"),
        ("{n: {default: 1, choices: [2, 3]}}", "1 is none of the choices"),
        ("{question: 1}", "'question' is a field of the state too"),
        ("{'a b': 1}", "'a b' is no name for a parameter"),
        ("{n: {help: x}}", "default is missing"),
        ("{n: {default: 1, kind: x}}", "unknown key 'kind'; allowed: default, help, type, choices"),
        ("[n]", "a mapping, key: value, is wanted"),
    ],
)
def test_a_parameter_that_is_declared_wrongly_is_a_fault(parameters: str, said: str) -> None:
    assert said in faults(with_parameters(parameters, search()))


def test_a_registered_program_is_named_with_values_of_its_parameters() -> None:
    built = program({"program": "arithmetic", "set": {"num_samples": 3, "stopping": "beta"}})
    assert compile_program(built).hash == compile_program(arithmetic(num_samples=3, stopping="beta")).hash


def test_files_name_each_other_relative_to_themselves_and_not_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/inner.yaml").write_text("parameters: {n: 2}\nprogram: arithmetic\nset: {num_samples: '{n}'}\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text("sequence:\n  - {program: parts/inner.yaml, set: {n: 5}}\n")
    built = load_program(outer)
    assert compile_program(built.programs[0]).hash == compile_program(arithmetic(num_samples=5)).hash
    (tmp_path / "parts/inner.yaml").write_text("sequence: [{program: ../outer.yaml}]\n")
    with pytest.raises(SpecError, match="is this very file, or one that names it"):
        load_program(outer)
    outer.write_text("sequence: [{program: missing.yaml}]\n")
    with pytest.raises(SpecError, match=r"outer\.yaml:1:22: .*missing\.yaml: cannot be read: No such file"):
        load_program(outer)


def test_a_file_that_cannot_be_read_is_one_clear_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: \xff\xfe")
    for place, said in {path: "is not UTF-8", tmp_path: "cannot be read", tmp_path / "no.yaml": "No such file"}.items():
        with pytest.raises(SpecError, match=said):
            load_program(place)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(search()).encode())
    assert load_program(path).name == "small"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("#" * 2_000_000)
    with pytest.raises(SpecError, match="2000000 bytes; allowed are up to"):
        load_program(path)


def test_a_learned_policy_is_read_from_its_file_beside_the_program(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "p.yaml"
    controller = {"PolicyController": {"max_depth": 2, "policy": {"file": "none.safetensors"}}}
    path.write_text(json.dumps(search(controller=controller)))
    with pytest.raises(SpecError, match=str(tmp_path / "none.safetensors")):
        load_program(path)


def test_a_program_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "my first.v2.yaml"
    path.write_text(json.dumps(search(name=None)))
    assert load_program(path).name == "my_first_v2"


def test_the_catalog_finds_program_files(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(search()))
    assert catalog.find(str(path)).build().name == "small"


def test_the_json_schema_accepts_what_is_accepted_and_refuses_unknown_keys() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for form in (
        search(),
        {"program": "game24", "set": {"beam_width": 2}},
        {"sequence": ["arithmetic", {"apply": "last_number"}]},
        search(goal={"every": [{"not_empty": {"field": "answer"}}]}, description="x", parameters={"n": 1}),
    ):  # fmt: skip
        assert validator.is_valid(form), form
        program(form)
    for form in (search(colour="red"), search(controller="NoSuch"), {"apply": {"last_number": {"n": 1}}}):
        assert not validator.is_valid(form), form
        faults(form)
