# SPDX-License-Identifier: Apache-2.0
"""Outputs of other models, and correction."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import AnswerError, ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS, landmark
from carm_core.language.commands import Stop, Unknown
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.datasets.language import sample
from carm_perception.evaluation import commands
from carm_perception.evaluation.dialogue.correction import correct
from carm_perception.evaluation.dialogue.sentences import read_sentences
from carm_perception.evaluation.dialogue.simulated_clinician import TEMPLATES, Kind, remark
from carm_perception.evaluation.metrics import closest
from carm_perception.evaluation.scoring.published import read_targets, score
from carm_perception.evaluation.suites.cases import Case
from carm_perception.protocols.parsing import parse_body_parts


def csv_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


TARGETS = ',file_name,top3_landmarks\n0,a/1.png,"[11, 10, 12]"\n1,a/2.png,"[8, 1, 4]"\n2,a/3.png,"[3, 10, 5]"\n'


def test_localization_outputs(tmp_path: Path) -> None:
    """Right; sides swapped; prose around the answer, which is malformed although the digits are right."""
    targets = read_targets(csv_file(tmp_path / "t.csv", TARGETS))
    assert targets.ids["a/2.png"] == (8, 1, 4)
    rows = 'filename,output,inference_time_sec\n1.png,"[11,10]",2.0\n2.png,"[9, 8]",1.0\n'
    rows += '3.png,"The answer is [3,10]",1.5\nelsewhere.png,"[1,2]",1\n'
    figures = score(csv_file(tmp_path / "o.csv", rows), targets, Protocol.LOCALIZATION)
    assert (figures["n"], figures["missing"], figures["unmatched"]) == (3, 0, 1)
    assert (figures["hit_1"], figures["hit_2"]) == (0.3333, 0.6667)
    assert (figures["mirror_swap"], figures["malformed"]) == (0.3333, 0.3333)
    assert (figures["latency_first_ms"], figures["latency_p50_ms"]) == (2000, 1250)
    assert figures["per_landmark"]["Right wrist"]["hit_2"] == 1
    assert "p_at_1" not in figures


def test_retrieval_outputs_with_synonyms(tmp_path: Path) -> None:
    targets = read_targets(csv_file(tmp_path / "t.csv", TARGETS))
    rows = "file_path,output\n"
    rows += 'x/1.png,"[11: Tracheal bifurcation, 12: Right Diaphragmatic dome, 3: Left humeral head]"\n'
    rows += 'x/2.png,"```\n[8: Right carpus, 1: Cranial vault, 4: Lower tip of right scapula]\n```"\n'
    rows += 'x/3.png,"[3: Right humeral head, 10: T1, 5: Left scapular inferior angle]"\n'
    figures = score(csv_file(tmp_path / "o.csv", rows), targets, Protocol.RETRIEVAL)
    assert figures["malformed"] == 0.3333
    assert figures["p_at_1"] == figures["hit_1"] == 0.6667
    assert figures["p_at_1_answered"] == 1
    assert figures["p_at_3"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-4)
    assert figures["latency_p50_ms"] is None


@pytest.mark.parametrize(
    ("targets", "outputs", "message"),
    [
        ("file_name,x\n1.png,3\n", "filename,output\n1.png,[1]\n", "needs a column top3_landmarks or"),
        ("file_name,label\n1.png,15\n", "filename,output\n1.png,[1]\n", "'15' is neither a landmark id"),
        ("file_name,mode,label\n1.png,train,3\n", "filename,output\n1.png,[1]\n", "no row has the mode 'test'"),
        ("file_name,label\n1.png,3\n2.png,<label_id>3</label_id>\n", "filename,output\n", "body parts in others"),
        ("file_name,label\n1.png,<label_id>22</label_id>\n", "filename,output\n", "no list of body parts from 0 to 21"),
        ("file_name,label\n1.png,<label_id></label_id>\n", "filename,output\n", "is neither a landmark id"),
        (
            "file_name,label\n1.png,<label_id>3</label_id>\n",
            "filename,output\n1.png,[1]\n",
            "the targets are body parts",
        ),
        ("file_name,label\n1.png,3\n", "pred,target\n[1 2],x\n", "'x' is no list of ids"),
        ("file_name,label\n1.png,3\n", "pred,output_\n[1],x\n", "needs a column target"),
        ("file_name,label\n1.png,3\n", "filename,answer\n1.png,[1]\n", "needs a column output"),
        ("file_name,label\n1.png,3\n", "filename,output\n2.png,[1]\n", "none of its 1 files"),
        ("file_name,label\n1.png,3\n", "filename,output,inference_time_sec\n1.png,a,fast\n", "'fast' is not a time"),
        ("file_name,label\n1.png,3\n", "", "holds no rows"),
        ("file_name,label\n1.png,[3 3]\n", "filename,output\n1.png,a\n", "'[3 3]' is neither a landmark id"),
    ],
)
def test_bad_files_in_one_line(tmp_path: Path, targets: str, outputs: str, message: str) -> None:
    target_file = csv_file(tmp_path / "t.csv", targets)
    with pytest.raises(ConfigurationError) as caught:
        score(csv_file(tmp_path / "o.csv", outputs), read_targets(target_file), Protocol.LOCALIZATION)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_that_occur_twice(tmp_path: Path) -> None:
    """The same label counts once; different labels are reported and do not count; the first output counts."""
    rows = "file_path,landmark\na/1.png,3\na/1.png,3\na/2.png,4\na/2.png,5\na/3.png,6\n"
    targets = read_targets(csv_file(tmp_path / "t.csv", rows))
    assert targets.conflicting == ("a/2.png",)
    rows = 'filename,output\na/1.png,"[3,1]"\na/1.png,"[1,3]"\na/2.png,"[4,5]"\n'
    figures = score(csv_file(tmp_path / "o.csv", rows), targets)
    assert (figures["n"], figures["hit_1"]) == (1, 1)
    assert (figures["repeated"], figures["conflicting"], figures["missing"], figures["unmatched"]) == (1, 1, 1, 0)


def test_the_longest_ending_of_a_path_tells_the_image(tmp_path: Path) -> None:
    """Images of several folders have one name; outputs carry the absolute paths of another machine."""
    targets = read_targets(csv_file(tmp_path / "t.csv", "file_path,landmark\nset/8/H/a.png,8\nset/9/H/a.png,9\n"))
    rows = 'filename,output,inference_time_sec,target\n/home/x/set/8/H/a.png,"{0}[8,1]{1}",1,8\n'
    rows += 'C:\\set\\9\\H\\a.png,"{0}[1,9]{1}",1,9\na.png,"[1,9]",1,9\n'
    answer = (
        "```xml\n<response>\n<visual_reasoning>Ribs, 2, 3.</visual_reasoning>\n<landmarks>",
        "</landmarks>\n</response>\n```",
    )
    file = csv_file(tmp_path / "o.csv", rows.format(*answer))
    figures = score(file, targets)
    assert (figures["n"], figures["hit_1"], figures["hit_2"], figures["unmatched"]) == (2, 0.5, 1, 1)
    assert figures["as_published"] == {"n": 2, "hit_1": 0.5, "hit_2": 1}
    assert score(csv_file(tmp_path / "p.csv", rows.split('a.png,"[1,9]')[0].format(*answer)), None)["hit_1"] == 0.5


def test_body_parts_of_an_image_are_all_right(tmp_path: Path) -> None:
    rows = 'SOPInstanceUID,Target,mode\n1.png,<label_id>3</label_id>,test\n2.png,"<label_id>9,21</label_id>",test\n'
    rows += "3.png,<label_id>4</label_id>,test\n4.png,<label_id>9</label_id>,train\n"
    targets = read_targets(csv_file(tmp_path / "t.csv", rows))
    rows = 'filename,output\n1.png,"[0, 3]\n"\n2.png,"<label_id>21</label_id>"\n3.png,"The labels are [4, 3]"\n'
    figures = score(csv_file(tmp_path / "o.csv", rows), targets)
    assert (figures["n"], figures["missing"]) == (3, 0)
    assert (figures["hit_1"], figures["hit_2"], figures["malformed"]) == (0.3333, 0.6667, 0.3333)
    assert figures["as_published"] == {"n": 2, "hit_1": 0.5, "hit_2": 1}
    assert figures["per_body_part"]["Wrist"] == {"n": 1, "hit_2": 1}


def test_tables_of_classifiers(tmp_path: Path) -> None:
    """Ids are compared as they are; a target is a set, or in order where it is as long as the prediction."""
    sets = score(
        csv_file(tmp_path / "s.csv", ',pred,target\n0,"[3,0]",[3]\n1,"[2,20]","[13,20]"\n2,"[5,4]",[6]\n'), None
    )
    assert (sets["n"], sets["hit_1"], sets["hit_2"]) == (3, 0.3333, 0.6667)
    rows = 'pred,target,inference_time_sec\n"[8,13,5]",[[ 8 13 11]],0.2\n"[4,12,8]",[[12  4  8]],0.1\n'
    lists = score(csv_file(tmp_path / "l.csv", rows), None)
    assert (lists["hit_1"], lists["hit_2"], lists["latency_p50_ms"]) == (0.5, 1, 100)
    assert lists["p_at_3"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<label_id>9,21</label_id>", (9, 21)),
        ("<label_id>0</label_id>", (0,)),
        (" [9, 21]\n", (9, 21)),
        ("```\n[9,3]\n```", (9, 3)),
    ],
)
def test_body_part_answers(text: str, ids: tuple[int, ...]) -> None:
    answer = parse_body_parts(text)
    assert answer.part_ids == ids
    assert parse_body_parts(answer.text()) == answer


@pytest.mark.parametrize(
    "text", ["[9]", "[9,9]", "[9,22]", "[9,3,4]", "<label_id></label_id>", "9,21", "Hand [9,21]", "[09,1]"]
)
def test_no_body_part_answers(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_body_parts(text)


def test_published_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = csv_file(tmp_path / "t.csv", "filename,landmark\n1.png,3\n2.png,11\n")
    outputs = csv_file(tmp_path / "model.csv", 'filename,output\n1.png,"[3,10]"\n2.png,nonsense\n')
    parser = argparse.ArgumentParser()
    commands.add_published_arguments(parser)
    words = [str(outputs), "--targets", str(targets), "--json", str(tmp_path / "f.json")]
    assert commands.run_published(parser.parse_args(words)) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["results"]["model"]
    assert (figures["hit_1"], figures["malformed"]) == (0.5, 0.5)
    assert "hit_1 0.500" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="cannot read"):
        commands.run_published(parser.parse_args([str(tmp_path), "--targets", str(targets)]))


class Corrigible(Localizer):
    """First answers by a list; listens to names, or fails on re-evaluation."""

    name = "corrigible"

    def __init__(self, first: list[int], fails: bool = False, changes: bool = False) -> None:
        self._first, self._fails, self._changes = first, fails, changes
        self.queries: list[Query] = []

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        first = self._first[int(frame.stamp_s)]
        if query.protocol is Protocol.LOCALIZATION:
            return self._reply(query, first)
        self.queries.append(query)
        if self._fails:
            return Localization(self.name, "", query, "", error="internal", message="cannot")
        if query.hint:
            named = [m.id for m in LANDMARKS if f"the {m.name.lower()}" in query.hint.lower() and m.id != first]
            mirrored = "side" in query.hint or "left and right" in query.hint or "patient's" in query.hint
            mirror = landmark(first).mirror_id
            return self._reply(query, named[0] if named else mirror if mirrored and mirror else first)
        return self._reply(query, 14 if self._changes else first)

    def _reply(self, query: Query, first: int) -> Localization:
        other = 1 if first != 1 else 10
        estimates = tuple(LandmarkEstimate(i, (np.nan, np.nan)) for i in (first, other))
        return Localization(self.name, "", query, f"[{first},{other}]", estimates)


def centered_case(index: int, target: int) -> Case:
    marks = np.full((48, 2), np.nan)
    marks[:14] = [[100.0 + 30 * i, 40.0 * i - 300] for i in range(14)]
    marks[target - 1] = [2.0, 3.0]
    return Case("p", XrayFrame(np.zeros((8, 8), np.uint8), 1.0, float(index)), marks, target, (78.0, 78.0))


def test_correction_of_wrong_and_right_answers() -> None:
    """Three views: sides swapped, right, right; so one wrong and one right answer are asked about again."""
    cases = [centered_case(0, 3), centered_case(1, 11), centered_case(2, 12)]
    localizer = Corrigible([2, 11, 12])
    figures = correct(localizer, cases, seed=0)
    assert (figures["asked"], figures["wrong"], figures["n"]) == (3, 1, 2)
    assert (figures["fixed_alone"], figures["broken_alone"]) == (0, 0)
    assert (figures["fixed_told"], figures["broken_told"]) == (1, 0)
    assert figures["fixed_told_side"] == 1
    assert [q.hint == "" for q in localizer.queries] == [True, True, False, False]
    assert localizer.queries[0].correction == "[2,1]"


def test_right_answers_can_break() -> None:
    figures = correct(Corrigible([2, 11], changes=True), [centered_case(0, 3), centered_case(1, 11)], seed=0)
    assert figures["broken_alone"] == 1


def test_no_second_answer_fixes_nothing_and_breaks_nothing() -> None:
    figures = correct(Corrigible([2, 11], fails=True), [centered_case(0, 3), centered_case(1, 11)], seed=0)
    assert figures["fixed_alone"] == figures["fixed_told"] == figures["broken_told"] == 0
    assert figures["no_answer_alone"] == 1
    json.dumps(figures, allow_nan=False)


def test_without_mistakes_there_is_nothing_to_correct() -> None:
    figures = correct(Corrigible([3]), [centered_case(0, 3)], seed=0)
    assert figures["n"] == 0
    assert figures["fixed_alone"] is None


class Reader(Localizer):
    """Reads by a function of the sentence."""

    name = "reader"

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        self._answer = answer

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        answer = self._answer(query.hint)
        if answer is None:
            return Localization(self.name, "", query, "", error="internal")
        return Localization(self.name, "", query, answer, latency_s=0.01)


def test_sentences_are_counted_by_what_is_made_of_them() -> None:
    rng = np.random.default_rng([3, 81])
    meant = dict(sample(rng, "test") for _ in range(60))
    right = read_sentences(Reader(lambda text: meant[text].text()), 60, seed=3)
    assert right["right"] == right["same_way"] == 1
    assert set(right["right_by_intent"].values()) == {1.0}
    assert right["latency_p50_ms"] == 10
    stop = read_sentences(Reader(lambda text: Stop().text()), 60, seed=3)
    assert stop["right"] + stop["other"] == pytest.approx(1, abs=1e-3)
    assert stop["right_by_intent"]["stop"] == 1
    assert read_sentences(Reader(lambda text: Unknown().text()), 60, seed=3)["not_understood"] > 0.5
    assert read_sentences(Reader(lambda text: "hello"), 60, seed=3)["malformed"] == 1
    assert read_sentences(Reader(lambda text: None), 60, seed=3)["failed"] == 1


@given(truth=st.integers(1, 14), answer=st.integers(1, 14), seed=st.integers(0, 500))
def test_the_clinician_says_what_is_true(truth: int, answer: int, seed: int) -> None:
    marks = centered_case(0, truth).displacement_mm
    assert closest(marks, 1) == (truth,)
    said = remark(marks, answer, np.random.default_rng(seed))
    assert said == remark(marks, answer, np.random.default_rng(seed))
    assert "{" not in said.text
    if truth == answer:
        assert said.kind in (Kind.DOUBT, Kind.CONFIRM)
    elif landmark(truth).mirror_id == answer:
        assert said.kind is Kind.SIDE
        if "patient's" in said.text:
            assert landmark(truth).name.split()[0].lower() in said.text
    elif said.kind is Kind.NAME:
        assert landmark(truth).name.lower() in said.text.lower()
    else:
        offset = marks[truth - 1] - marks[answer - 1]
        words = {"up": (1, 1), "head": (1, 1), "down": (1, -1), "feet": (1, -1), "left": (0, 1), "right": (0, -1)}
        (axis, sign) = next(value for word, value in words.items() if word in said.text.split())
        assert np.sign(offset[axis]) == sign


def test_templates_do_not_repeat() -> None:
    sentences = [text for texts in TEMPLATES.values() for text in texts]
    assert len(set(sentences)) == len(sentences)
