"""AlphaEdit's scoring of its six GLUE tasks restated: what a script reads from its decoded text, and its f1 and mcc.

Apart from the tasks and without sklearn; labels are the numbers that the scripts use, -1 where nothing could be read.
"""

from collections.abc import Sequence

WORDS = {
    "glue_sst": ("Sentiment :", [("positive", 1), ("negative", 0)]),
    "glue_mrpc": ("Answer:", [("yes", 1), ("no", 0)]),
    "glue_cola": ("Answer:", [("yes", 1), ("no", 0)]),
    "glue_rte": ("answer:", [("false", 0), ("true", 1)]),
    "glue_nli": ("True or False? Answer:", [("true", 1), ("false", 0)]),
}


def answer(task: str, prompt: str, said: str) -> int:
    """The label that is read from a prompt and what followed it."""
    if task == "glue_mmlu":
        lower = said.lower()
        for number in range(4):
            if "abcd"[number] + "\n" in lower:
                return number
        return -1
    mark, words = WORDS[task]
    behind = (prompt + said).split(mark)[-1].strip().lower()
    for word, number in words:
        if word in behind:
            return number
    return -1


def f1(labels: Sequence[object], answers: Sequence[object]) -> float:
    """Weighted: every label's F1, as often as it is right."""
    total = 0.0
    for label in set(labels):
        both = sum(a == b == label for a, b in zip(labels, answers, strict=True))
        precision, recall = both / max(1, list(answers).count(label)), both / list(labels).count(label)
        share = list(labels).count(label) / len(labels)
        total += share * (2 * precision * recall / (precision + recall) if both else 0.0)
    return total


def mcc(labels: Sequence[object], answers: Sequence[object]) -> float:
    """Gorodkin's, of the table of labels against answers; 0 where either is always the same."""
    kinds = sorted({*labels, *answers}, key=str)
    table = [[sum((a, b) == (x, y) for a, b in zip(labels, answers, strict=True)) for y in kinds] for x in kinds]
    n = len(labels)
    rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    cover = sum(table[i][i] for i in range(len(kinds))) * n - sum(r * c for r, c in zip(rows, columns, strict=True))
    wide = (n * n - sum(c * c for c in columns)) * (n * n - sum(r * r for r in rows))
    return float(cover / wide**0.5) if wide else 0.0
