"""TED-6K, a text-only benchmark of text encoders: is the true statement the one closest to its caption?

This script ships beside the Parquet files and stands alone. With datasets >= 4, which reads the Parquet by itself:

    load_dataset("ted-6k")                                   # or ("ted-6k", "adverb"), ("ted-6k", "video")

and, to go through this builder:

    Ted6K(config_name="video", data_dir="ted-6k").download_and_prepare()   # data_dir: the folder of this file
    load_dataset("ted-6k/ted_6k.py", trust_remote_code=True)               # datasets 3, from a local copy or the Hub
"""

import glob
import os

import datasets
from datasets.data_files import DataFilesDict


CATEGORIES = (
    "Action Recognition",
    "Adjective",
    "Adverb",
    "Basic Event",
    "Coreference",
    "OCR",
    "Quantity",
    "Spatial Relationship",
    "Temporal",
)
MEDIA = ("image", "video")
# A list in brackets is understood by every version of datasets; `List` is not.
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "caption_id": datasets.Value("string"),
        "caption": datasets.Value("string"),
        "media": datasets.Value("string"),
        "category": datasets.Value("string"),
        "question": datasets.Value("string"),
        "statements": [datasets.Value("string")],
        "label": datasets.Value("int64"),
        "source": datasets.Value("string"),
    }
)


def snake_case(category):
    """The name of a category's configuration and file: `"Basic Event"` -> `"basic_event"`."""
    return category.lower().replace(" ", "_")


# The files of each configuration, relative to the dataset's folder. No row is stored twice.
CONFIG_FILES = {
    "default": "data/*/*.parquet",
    **{media: f"data/{media}/*.parquet" for media in MEDIA},
    **{snake_case(category): f"data/*/{snake_case(category)}.parquet" for category in CATEGORIES},
}


class Ted6K(datasets.GeneratorBasedBuilder):
    """The benchmark, one of its categories (`"adjective"`, ...) or one medium (`"image"`, `"video"`), split `test`.

    Args:
        config_name (`str`, defaults to `"default"`): one of `CONFIG_FILES`.
        data_dir (`str`, defaults to the folder of this file): the folder that holds `data/`.
        data_files (`str` or `list[str]`, defaults to the configuration's files): other Parquet files of this layout.
            Rows that the configuration does not name are passed over.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name) for name in CONFIG_FILES]
    DEFAULT_CONFIG_NAME = "default"

    def __init__(self, *args, config_name=None, base_path=None, data_dir=None, data_files=None, **kwargs):
        if config_name is not None and config_name not in CONFIG_FILES:
            raise ValueError(f"got config_name={config_name!r}, expected one of {', '.join(CONFIG_FILES)}: name one")
        # Resolved files carry their time of change, so that the cache cannot return those of an earlier export.
        if not isinstance(data_files, DataFilesDict):
            files = data_files or CONFIG_FILES[config_name or self.DEFAULT_CONFIG_NAME]
            if not isinstance(files, dict):
                files = {"test": [files] if isinstance(files, str) else list(files)}
            here = os.path.dirname(os.path.abspath(__file__))
            # A folder is no pattern, whatever its name.
            root = base_path if data_files else glob.escape(str(data_dir or base_path or here))
            data_files = DataFilesDict.from_patterns(files, base_path=root)
        super().__init__(*args, config_name=config_name, base_path=base_path, data_files=data_files, **kwargs)

    def _info(self):
        return datasets.DatasetInfo(description=__doc__.split("\n", 1)[0], features=FEATURES)

    def _split_generators(self, dl_manager):
        files = dl_manager.download(dict(self.config.data_files))
        return [datasets.SplitGenerator(name=split, gen_kwargs={"files": files[split]}) for split in files]

    def _generate_examples(self, files):
        wanted = self.config.name
        names = [glob.escape(str(file)) for file in files]
        for row in datasets.load_dataset("parquet", data_files=names, split="train", streaming=True):
            if wanted in ("default", row["media"], snake_case(row["category"])):
                yield row["id"], row
