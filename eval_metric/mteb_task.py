"""TED as a task of mteb, for any model that mteb can run: rank the statements about a caption, the true one first.

    model = SentenceTransformer("granted", trust_remote_code=True)
    mteb.evaluate(model, TED6K("TED-6k.json"), cache=None)

The main score is the accuracy of `granted evaluate ted`: the same texts, the same cosines, and a tie is wrong. mteb's
cache knows a model by its name: pass `cache=None`, or one of your own, where several share a name.
Tiny, on CPU: `TED6K()` reads the sample that is shipped with the package.
"""

import os

from datasets import Dataset
from mteb import TaskMetadata
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from granted.dataset_builders.ted_6k.hub_task import task_id
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.records import TedRecord, caption_text, snake_case
from granted.utils.citation import bibtex


def document_ids(record: TedRecord) -> list[str]:
    """The ids of a record's statements as documents."""
    return [f"{record['id']}/{i}" for i in range(len(record["statements"]))]


def task_metadata(config: str, fingerprint: str) -> TaskMetadata:
    """What mteb says about a benchmark: `config` is `"official"`, `"synthetic"`, `"sample"` or `"custom"`."""
    official = config == "official"
    return TaskMetadata(
        name=task_id(config),
        description=(
            "Which of a few minimally different statements agrees with a long caption of an image or a video, as "
            "text encoders of diffusion models must know. "
            + ("The official benchmark." if official else f"Not the official benchmark: {config} records.")
        ),
        reference="https://arxiv.org/abs/2512.15560",
        dataset={"path": "ted-6k", "revision": fingerprint},
        type="Reranking",
        category="t2t",
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        # For models that follow instructions; others, and the paper, encode the texts as they are.
        prompt={"query": "Given a caption of an image or a video, retrieve the statement that agrees with it"},
        domains=["Scene", "Written"],
        task_subtypes=["Textual Entailment"],
        bibtex_citation=bibtex(),
    )


class TED6K(AbsTaskRetrieval):
    """TED as reranking: a caption is the query, its statements are the candidates, one of them is relevant.

    Beside mteb's own scores it gives `accuracy` (the main score), `ties` (a true statement that ties with another for
    the best score, which is wrong) and the accuracy of every category, such as `accuracy_spatial_relationship`.
    The name says which benchmark it is: `TED6K` for the official one, else `TED6KSynthetic`, `TED6KSample` or
    `TED6KCustom`. Its revision is the fingerprint of the records.

    Args:
        ted (`str`, defaults to `"sample"`): an authors' JSON file, a Parquet file or a folder of them, or the word
            `"sample"`, as [`read_ted`] takes it.

    Raises:
        InputError: there is no such benchmark, or a record breaks the schema.
    """

    # mteb looks at that of every imported class; an instance has that of its records.
    metadata = task_metadata("official", fingerprint="")

    def __init__(self, ted: str | os.PathLike = "sample", **kwargs):
        self.records, info = read_ted(ted)
        self.metadata = task_metadata(info["config"], info["fingerprint"])
        super().__init__(**kwargs)

    def load_data(self, *args, **kwargs) -> None:
        """Lay the records out as mteb's queries and documents (it strips documents); nothing is fetched."""
        queries = [{"id": record["id"], "text": caption_text(record)} for record in self.records]
        documents = [
            {"id": document, "text": statement}
            for record in self.records
            for document, statement in zip(document_ids(record), record["statements"])
        ]
        split = RetrievalSplitData(
            queries=Dataset.from_list(queries),
            corpus=Dataset.from_list(documents),
            relevant_docs={record["id"]: {document_ids(record)[record["label"]]: 1} for record in self.records},
            top_ranked={record["id"]: document_ids(record) for record in self.records},
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def unload_data(self) -> None:
        """Drop the laid-out data; the records and what describes them stay."""
        metadata = self.metadata
        super().unload_data()  # which also drops an instance's metadata
        self.metadata = metadata

    def task_specific_scores(self, scores, qrels, results: dict[str, dict[str, float]], **kwargs) -> dict[str, float]:
        """Accuracy as TED counts it, over all records and per category, from the cosines in `results`."""
        right: dict[str, list[bool]] = {"accuracy": []}
        ties = 0
        for record in self.records:
            others = dict(results[record["id"]])
            true = others.pop(document_ids(record)[record["label"]])
            ties += true == max(others.values())
            for name in ("accuracy", f"accuracy_{snake_case(record['category'])}"):
                right.setdefault(name, []).append(true > max(others.values()))
        return {name: sum(values) / len(values) for name, values in right.items()} | {"ties": ties}
