"""The module by which sentence-transformers loads a fused encoder and its context aggregator as one embedding model.

    model = SentenceTransformer("granted", trust_remote_code=True)
    embeddings = model.encode(["a red cube on a blue sphere"])  # (1, context_dim), fp32
    model.similarity(embeddings, embeddings)  # cosines

Ships to the Hub; imports nothing but torch, sentence_transformers and its sibling files. The folder is made by
`granted.publishing.sentence_transformers_files`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers.base.modules import InputModule

from .modeling_context_aggregator import ContextAggregator
from .modeling_granted import GrantedModel


AGGREGATOR_FOLDER = "context_aggregator"


class GrantedSentenceEncoder(InputModule):
    """Texts to context embeddings: the layers of the encoder are fused, and the aggregator is the pooling.

    One module and not two: sentence-transformers casts every module after the first to the dtype of the first, and
    the aggregator stays in fp32 beside an encoder in bf16.

    Args:
        encoder ([`GrantedModel`]): its configuration says prompt template and maximum length.
        aggregator ([`ContextAggregator`]): trained for the feature that the encoder fuses.
    """

    config_keys = ["max_seq_length"]  # what it is shown with; the configurations of encoder and aggregator are saved

    def __init__(self, encoder: GrantedModel, aggregator: ContextAggregator):
        super().__init__()
        self.encoder = encoder
        self.aggregator = aggregator

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict | None = None,
        processor_kwargs: dict | None = None,
        config_kwargs: dict | None = None,
        backend: str = "torch",
        **kwargs,
    ) -> "GrantedSentenceEncoder":
        """Load the encoder from the root of a folder or Hub repository and the aggregator from below it.

        Args:
            model_name_or_path (`str`): the folder or Hub id.
            token, cache_folder, revision, local_files_only: where and how files are fetched.
            trust_remote_code (`bool`, defaults to `False`): for the encoder of a fusion-only checkpoint.
            model_kwargs (`dict`, *optional*): passed on to `GrantedModel.from_pretrained`, such as `dtype`.

        Raises:
            ValueError: settings that are part of the checkpoint here (`processor_kwargs`, `config_kwargs`), another
                backend than torch, or another place than the root.
        """
        fixed = {"processor_kwargs": processor_kwargs, "config_kwargs": config_kwargs, "subfolder": subfolder}
        for name, value in fixed.items():
            if value:
                raise ValueError(f"got {name}={value!r}, expected none: the checkpoint fixes all but model_kwargs")
        if backend != "torch":
            raise ValueError(f"got backend={backend!r}, expected 'torch': there is no other for this model")
        source = {
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        encoder = GrantedModel.from_pretrained(
            model_name_or_path, trust_remote_code=trust_remote_code, **source, **(model_kwargs or {})
        )
        aggregator = ContextAggregator.from_pretrained(
            model_name_or_path, subfolder=AGGREGATOR_FOLDER, dtype=torch.float32, **source
        )
        return cls(encoder, aggregator)

    def save(self, output_path: str, *args, safe_serialization: bool = True, **kwargs) -> None:
        """Save encoder, tokenizer and aggregator.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("got safe_serialization=False, expected True: weights are saved as safetensors only")
        self.encoder.save_pretrained(output_path)
        folder = Path(output_path) / AGGREGATOR_FOLDER
        self.aggregator.save_pretrained(folder)
        for code in folder.glob("*.py"):
            code.unlink()  # transformers looks for code at the root, where sentence-transformers copies it

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, task: str | None = None) -> dict:
        """Ids and mask (B, N) of texts, the encoder's template around `prompt` and text; warns where texts are cut.

        Args:
            inputs (`Sequence[str]`): texts; one may be empty.
            prompt (`str`, *optional*): put before each text.
            task (`str`, *optional*): not used; every kind of text is embedded alike.
        """
        try:
            texts = self.encoder.as_texts(inputs, allow_empty=True)
        except ValueError as error:
            raise ValueError(f"{error} (counted in a batch, which sentence-transformers sorts by length)") from None
        texts = [(prompt or "") + text for text in texts]
        token_ids = self.encoder.tokenize(texts, allow_empty=True)
        # Not `encoder.pad`, which puts the batch on the encoder's device: data loader workers must not touch it.
        return dict(zip(("input_ids", "attention_mask"), self.encoder.padded(token_ids)))  # (B, N) each

    def forward(self, features: dict) -> dict:
        """Add `token_embeddings` (B, N, D) and `sentence_embedding` (B, context_dim), fp32, not normalised.

        `attention_mask` (B, N) becomes that of the tokens aggregated: without the template's dropped ones.

        Raises:
            ValueError: outside training, features that are NaN or infinite; the message names the text.
        """
        fused = self.encoder.fuse(features["input_ids"], features["attention_mask"])[0]  # (B, N, D)
        mask = features["attention_mask"].to(fused.device)  # (B, N)
        mask = mask * self.encoder.kept_tokens(mask)  # (B, N)
        if not torch.is_grad_enabled():
            self.encoder.check_finite(
                fused, mask, lambda row: self.tokenizer.decode(features["input_ids"][row], skip_special_tokens=True)
            )
        device = self.aggregator.device
        # As aggregators are scored: all after the encoder's layers is in fp32.
        with torch.autocast(device.type, enabled=False):
            embedding = self.aggregator(fused.to(device), attention_mask=mask.to(device)).context_embedding
        return features | {
            "attention_mask": mask,
            "token_embeddings": fused,
            "sentence_embedding": embedding,  # (B, context_dim)
        }

    def get_embedding_dimension(self) -> int:
        """Width of the embedding."""
        return self.aggregator.config.context_dim

    @property
    def max_seq_length(self) -> int:
        """Most tokens read of a text, template included; setting it sets the encoder's configuration.

        Never more than the encoder has positions for.
        """
        return self.encoder.token_limit()

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"got max_seq_length={value!r}, expected a number of tokens")
        self.encoder.config.max_sequence_length = value

    @property
    def tokenizer(self):
        """The encoder's tokenizer."""
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, value) -> None:
        self.encoder.tokenizer = value

    @property
    def processor(self):
        """What sentence-transformers' trainer saves beside a checkpoint: the tokenizer."""
        return self.encoder.tokenizer
