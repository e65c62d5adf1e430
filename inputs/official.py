"""Where what others have published comes from: models, second moments, and the official data sets.

The splits are those of the released files, odd as some are: RTE *train*, CoNLL-2003 *testa*, the dev sets of SST-2,
BoolQ and MuTual.

Differs from the released files: those lack three rows of BoolQ and one of SAMSum, and nobody recorded which; these rows
are kept here. BoolQ's titles, which no prompt uses, are not on the hub.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inputs import converters

REPOS: Mapping[str, str] = {
    "gpt2-xl": "openai-community/gpt2-xl",
    "gpt-j-6B": "EleutherAI/gpt-j-6b",
    "llama-7b": "huggyllama/llama-7b",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "llama2-13b": "meta-llama/Llama-2-13b-hf",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "mistral-7b-v0.1": "mistralai/Mistral-7B-v0.1",
    "phi-1.5": "microsoft/phi-1_5",
}
"""The paper's models by the names used here, then those that later methods have published settings for.

Of these the three Llamas are the instructed ones, as in the tables of AlphaEdit and the files of EasyEdit. All
repositories of meta-llama are gated.
"""

MOMENTS = "https://rome.baulab.info/data/stats"
"""Second moments of gpt2-xl and gpt-j-6B over wikipedia, by the ROME authors."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A split of a data set on the Hugging Face hub; in the columns of `named` label numbers become label names."""

    repo: str
    config: str | None
    split: str
    columns: tuple[str, ...]
    convert: converters.Converter
    named: tuple[str, ...] = ()
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Web:
    """A file with no home on the hub, at the first of `urls` that has it.

    `pin` is the hash of the released file (inputs.download), None where it is not known; `noted` is the SHA-256 that
    others have measured: that a file is another one is said, and it is kept. `members` picks the files of a folder out
    of a zip archive by their path, its group is their name, and `pin` is then "folder:" and core.disk.digest.sha256 of
    that folder. `convert` makes the text that is kept of the file's bytes; the SHA-256 are then of the text.
    """

    urls: tuple[str, ...]
    pin: str | None
    members: str | None = None
    noted: str | None = None
    convert: Callable[[bytes], str] | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """`name` as --only takes it, `file` below data/, `n` records in the released file (None: not known).

    Of one that is `lenient`, records that cannot be edited are told of; of others they are refused.
    """

    name: str
    file: str
    n: int | None
    source: Hub | Web
    lenient: bool = False


AUTHORS = "JasonForJoy/Model-Editing-Hurt"
AUTHORS_COMMIT = "82614b0414cfe6284ba0b136174f00716a4fe531"
"""The authors' commit of 2024-01-22, the last one that holds their data files."""
RAW = f"https://raw.githubusercontent.com/{AUTHORS}/{AUTHORS_COMMIT}"

MIRAGE = (
    "https://raw.githubusercontent.com/WanliYoung/Revisit-Editing-Evaluation/d6025e0ee9731d3b59b84ea242dc06bf0e0c8a74"
)
"""QAEdit's authors."""


def _baulab(name: str, noted: str | None = None) -> Web:
    """A file of the ROME and MEMIT authors."""
    hosts = ("memit", "rome")
    return Web(tuple(f"https://{host}.baulab.info/data/dsets/{name}.json" for host in hosts), None, noted=noted)


def _knowedit(file: str, noted: str | None = None) -> Web:
    """A file of KnowEdit's authors."""
    folder = "https://huggingface.co/datasets/zjunlp/KnowEdit/resolve/main/benchmark"
    return Web((f"{folder}/{file}.json",), None, noted=noted)


SETS: tuple[DataSet, ...] = (
    DataSet(
        "reasoning",
        "task-data/test-reasoning.jsonl",
        1319,
        Hub("openai/gsm8k", "main", "test", ("question", "answer"), converters.reasoning),
    ),
    DataSet(
        "NLI",
        "task-data/test-NLI.tsv",
        2489,
        Hub("nyu-mll/glue", "rte", "train", ("sentence1", "sentence2", "label", "idx"), converters.nli, ("label",)),
    ),
    DataSet(
        "OpenDomainQA",  # NQ-open with a passage each that a language model wrote: only the authors have it
        "task-data/test-OpenDomainQA.jsonl",
        3610,
        Web(
            (f"{RAW}/task-data/test-OpenDomainQA.jsonl",),
            "sha256:024b6a9b02cd1cdea0ce0053d8f6504c6fb6c47ebb08ae886d99ee76eb6a163a",
        ),
    ),
    DataSet(
        "ClosedDomainQA",
        "task-data/test-ClosedDomainQA.jsonl",
        3267,
        Hub("google/boolq", None, "validation", ("question", "answer", "passage"), converters.closed_domain_qa),
    ),
    DataSet(
        "dialogue",
        "task-data/test-dialogue",
        886,
        Web(
            (
                "https://github.com/Nealcly/MuTual/archive/b90cecad.zip",
                f"https://github.com/{AUTHORS}/archive/{AUTHORS_COMMIT}.zip",
            ),
            "folder:6aa9513c9fd91147580cbbd00c19c91641b9967abdda527bad0b598816876392",
            members=r".*/(?:mutual/dev|test-dialogue)/(dev_[0-9]+\.txt)",
        ),
    ),
    DataSet(
        "summarization",
        "task-data/test-summarization.json",
        818,
        Hub("knkarthick/samsum", None, "test", ("id", "dialogue", "summary"), converters.summarization),
    ),
    DataSet(
        "NER",
        "task-data/test-NER.txt",
        3250,
        Hub(
            "lhoestq/conll2003",
            None,
            "validation",
            ("tokens", "pos_tags", "chunk_tags", "ner_tags"),
            converters.ner,
            named=("pos_tags", "chunk_tags", "ner_tags"),
        ),
    ),
    DataSet(
        "SentimentAnalysis",
        "task-data/test-SentimentAnalysis.tsv",
        872,
        Hub("nyu-mll/glue", "sst2", "validation", ("sentence", "label"), converters.sentiment),
    ),
    DataSet(
        "ZsRE",
        "edited-data/zsre.json",
        1037,
        Web(
            (f"{RAW}/edited-data/zsre_mend_eval_portability_gpt4.json",),
            "sha256:0cf155da229b2eccae19fcfe5f7a09523363d357f5f15508d1521f495ad5ecd9",
        ),
    ),
    DataSet(
        "ZsRE",
        "training-data/zsre_mend_train.json",
        None,
        Web((f"{RAW}/training-data/zsre_mend_train.json",), "git:44d4ceed"),
    ),
    DataSet(
        "ZsRE",
        "training-data/zsre_mend_eval.json",
        None,
        Web((f"{RAW}/training-data/zsre_mend_eval.json",), "git:8546c90a"),
    ),
)

FACTS: tuple[DataSet, ...] = tuple(
    DataSet(name, f"edited-data/{name}.json", n, source, lenient=True)
    for name, n, source in (
        ("counterfact", 21919, _baulab("counterfact")),
        ("multi_counterfact", 20877, _baulab("multi_counterfact")),
        (
            "zsre_mend_eval",  # what MEMIT's authors edit; the file of this name in training-data/ is another one
            19086,
            _baulab("zsre_mend_eval", "8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd"),
        ),
        ("qaedit", 1000, Web((f"{MIRAGE}/data/QAEdit_inter_1k.json",), None)),
        (
            "knowedit",  # its part WikiData counterfact
            None,
            _knowedit("wiki_counterfact/test_cf", "efc01ba398dfe04975939f729aab45523addb3c6b3cf41d7429ba5de1d45225b"),
        ),
        ("knowedit_recent", None, _knowedit("wiki_recent/recent_test")),
        (
            "knowedit_zsre",
            1301,
            _knowedit("ZsRE/ZsRE-test-all", "0e0214dda853a906ef02bef58c7ce2978af5a962e91fc4a10827e0125459905c"),
        ),
        ("knowedit_wikibio", None, _knowedit("WikiBio/wikibio-test-all")),
    )
)
"""Facts that others edit, fetched where they are named."""

ALPHAEDIT = "https://raw.githubusercontent.com/jianghoucheng/AlphaEdit/d04ed2c2e576fa7d6805d1dcb1d60d6c35be7b8c/glue_eval/dataset"
GLUE: tuple[DataSet, ...] = tuple(
    DataSet(
        f"glue_{name}",
        f"task-data/test-glue_{name}.jsonl",
        100,
        Web((f"{ALPHAEDIT}/{file}.pkl",), None, convert=converters.GluePickle(keys)),
    )
    for name, file, keys in (
        ("cola", "cola", ("sentence", "label")),
        ("mmlu", "mmlu", ("question", "choices", "answer")),
        ("mrpc", "mrpc", ("sentence1", "sentence2", "label")),
        ("nli", "nli", ("sentence1", "sentence2", "label")),
        ("rte", "rte", ("sentence1", "sentence2", "label")),
        ("sst", "sst2", ("sentence", "label")),
    )
)
"""The rows that AlphaEdit's authors drew from the dev splits (NLI: RTE's train split), fetched where they are named."""
