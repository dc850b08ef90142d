"""The corpus of every arm, prepared, and what makes one unfit for its study: said before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablab.core.fault import CheckFailed, Fault, InvalidStudy, Refused
from ablab.core.files import key_of, read_json, write_json
from ablab.records.settings import DataSettings

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.runs.store import Store
    from ablab.study import Arm, Study


def prepared(
    study: Study, store: Store, say: Callable[[str], None], recall: Callable[[str], None] | None = None
) -> dict[str, Corpus]:
    """Prepare the corpus of the baseline and of each arm, by name; arms that ask for the same one have it in common.

    recall: says so where a source cannot be read and the store's corpus of it is taken; without it that is refused.

    Raises CheckFailed where there is too little text or a stage's script cannot be counted, InvalidStudy where the data do
    not fit what the study asks.
    """
    from ablab.data.batches.megatron_stream import unfit

    known: dict[str, Corpus] = {}
    corpora: dict[str, Corpus] = {}
    for name, arm in {study.baseline.name: study.baseline, **study.arms}.items():
        chosen = arm.settings["data"]
        asked = _asked(chosen)
        if asked not in known:
            known[asked] = _read_or_recalled(study, chosen, store, say, recall)
            if few := few_documents(known[asked]):
                say(f"data: {few}")
        if known[asked].n_train < (span := chosen["span"]):
            fault = f"{known[asked].n_train:,} training tokens do not fill one chunk of {span:,} (the longest seq_len)"
            raise CheckFailed(Fault(f"{study.path.name}: data.source", fault, "add text or lower seq_len"))
        if missing := _missing_span(known[asked], study.decision["metric"]):
            place = f"{study.path.name}: decision.metric"
            raise InvalidStudy(Fault(place, missing, "choose nats_per_token or bits_per_byte, or data with spans"))
        if chosen["order"] == "megatron" and (fault := unfit(known[asked], chosen["weights"])):
            raise InvalidStudy(Fault(f"{study.path.name}: data.order", *fault.split("; ", 1)))
        corpora[name] = known[asked]
        _code(study, arm)
    return corpora


def few_documents(corpus: Corpus) -> str:
    """Warn where the held-out documents count as fewer than a word over documents needs; "" where they do not."""
    from ablab.verdict.documents import FEWEST, effective

    sizes = np.maximum(0, np.diff(corpus.valid.starts) - 1).astype(np.float64)
    what, more = _documents(len(sizes)), "more documents"
    if corpus.groups is not None:
        sizes = np.bincount(corpus.groups.numbers, sizes)
        what, more = f"{what} in {len(sizes):,} groups by {corpus.groups.by}", "documents of more groups"
    counted = effective(sizes)
    if counted >= FEWEST:
        return ""
    largest = float(sizes.max() / sizes.sum()) if sizes.sum() else 1.0
    return (
        f"warning: the held-out text is {what} that count{'s' if what == '1 document' else ''} as {counted:.1f} "
        f"(the largest is {largest:.0%} of it; {FEWEST} are needed for a word over documents): little is known of other text; "
        f"hold out {more} (data.valid_fraction, data.valid_bytes, data.valid_source)"
    )


def _documents(documents: int) -> str:
    """Write `18 documents`."""
    return "1 document" if documents == 1 else f"{documents:,} documents"


def _asked(chosen: DataSettings) -> str:
    """Return the key of the settings that a corpus is made by."""
    unset = ("groups",) if chosen["groups"] is None else ()
    return key_of({k: v for k, v in chosen.items() if k not in ("span", "order", "weights", *unset)})


def _read_or_recalled(
    study: Study,
    chosen: DataSettings,
    store: Store,
    say: Callable[[str], None],
    recall: Callable[[str], None] | None,
) -> Corpus:
    """Return the corpus of these settings, as their sources are now; where they cannot be read, as they were when most of the
    study's finished runs were made, or when last prepared."""
    from ablab import data
    from ablab.data.corpus import groups

    memo = store.data / "asked.json"  # settings -> the corpora that were made of them, the last one last
    asked, known = _asked(chosen), _memo(memo)
    try:
        corpus = data.prepare(chosen, store.data, say=say)
    except Refused as refused:
        kept = [key for key in known.get(asked, ()) if (store.data / key).is_dir()]
        if recall is None or not kept:
            raise
        key = max(reversed(kept), key=lambda key: _finished(study, asked, key, store))  # of equals the last one
        recall(
            f"note: the data cannot be read ({refused.faults[0]}); this is of the store's corpus {key[:8]}, made of it before"
        )
        corpus, by = data.open_corpus(store.data / key), chosen["groups"]
        if by is None:
            return corpus
        made = groups.recalled(key, len(corpus.valid), by, store.data)
        if made is None:
            raise
        return replace(corpus, groups=made)
    made_before = known.get(asked, [])
    if made_before[-1:] != [corpus.key] and (recall is None or not made_before):  # who only reads makes nothing of it
        write_json(memo, {**_memo(memo), asked: [*(key for key in made_before if key != corpus.key), corpus.key]})
    return corpus


def _finished(study: Study, asked: str, corpus: str, store: Store) -> int:
    """Count the finished trainings of the study on a corpus of these settings."""
    from ablab.records.run import Executed, Where
    from ablab.runs.contents import Contents

    path = store.study(study.name, study.scale) / "where.json"
    if not path.exists():
        return 0
    executed, contents, count = read_json(path, form=Executed), Contents(store, recall=lambda _: None), 0
    where = Where.read(executed)
    for nth, seed in enumerate(study.seeds):
        for arm in (study.baseline, *study.arms.values()):
            if _asked(arm.settings["data"]) == asked:
                settings = arm.settings_of(nth)
                try:
                    key, _ = contents.key(settings, corpus=corpus, seed=seed, where=where)
                except Refused:  # said where the runs are planned
                    continue
                count += (store.train(key) / "done.json").is_file()
    return count


def _memo(path: Path) -> dict[str, list[str]]:
    try:
        memo = read_json(path)
    except CheckFailed:
        return {}  # lost: data that is gone cannot be recalled, all else goes on
    if not isinstance(memo, dict):
        return {}
    listed = {asked: [made] if isinstance(made, str) else made for asked, made in memo.items()}  # one, as it was once
    whole = all(isinstance(made, list) and all(isinstance(key, str) for key in made) for made in listed.values())
    return listed if whole else {}


def _code(study: Study, arm: Arm) -> None:
    """Refuse a stage whose script cannot be counted, before anything is trained."""
    from ablab.artifact.pack import code_bytes

    for name, stage in arm.settings["stage"].items():
        try:
            if stage["code"] is not None:
                code_bytes(Path(stage["code"]))
        except ValueError as error:
            place = f"{study.path.name}: stage.{name}.code"
            raise CheckFailed(Fault(place, *str(error).split("; ", 1))) from error


def _missing_span(corpus: Corpus, metric: str) -> str:
    """Say why a metric of one span cannot be had from this corpus; "" where it can, or is none."""
    from ablab.data.spans import SPANS, metric_of

    for name, mark in SPANS.items():
        if metric == metric_of(name) and not (corpus.valid.marks == mark).any():
            return f"no held-out token of this data lies in a {name} span"
    return ""
