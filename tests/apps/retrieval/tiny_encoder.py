"""A real sentence-transformers folder of a few kilobytes: random weights of a fixed seed, a tokenizer of few words."""

from pathlib import Path

TEXT = (
    "the of and to in is a that it for on with as this by river stone bread moon engine music forest glass number tiger"
    " lamp cloud paper silver garden window winter copper ocean bridge planet secret answer question token meeting"
)
WORDS = TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def make(folder: Path, *, d: int = 32, length: int = 16, seed: int = 1, prompts: dict[str, str] | None = None) -> Path:
    """Write the folder; its windows are length - 2 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers import models as token_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(listed))}
    tokenizer = Tokenizer(token_models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=length,
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=d,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * d,
        max_position_embeddings=64,
    )
    network = folder / "network"
    BertModel(config, add_pooling_layer=False).save_pretrained(network)
    fast.save_pretrained(network)
    body = Transformer(str(network), max_seq_length=length)
    model = SentenceTransformer(modules=[body, Pooling(d, "mean")], prompts=prompts, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"
