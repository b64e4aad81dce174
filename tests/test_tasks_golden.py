"""Golden numbers of the shipped base model: what a change of code or library must not move.

Made with the float32 CPU build of torch 2.13; the tolerance covers other builds' rounding.
"""

from __future__ import annotations

import pytest
import torch

from data.schema import Message, Session
from tasks.adapters.catalog import make_bank
from tasks.base_model import load_base
from tasks.config import DecodingConfig, LoraConfig, ModelConfig, PrefixConfig, TrainingConfig
from tasks.decoding import DecodingJob, generate
from tasks.examples import Example, SlotPlan
from tasks.prompt import DEFAULT_PROMPT, end_of_turn_id, render_session
from tasks.runtime import Runtime
from tasks.training import train_bank

torch.set_num_threads(1)

CONFIGS = {"lora": LoraConfig(dropout=0.05), "prefix": PrefixConfig()}
RATES = {"lora": 5e-3, "prefix": 1e-1}
TALK = (
    ("I'm home. Could you make the living room cozy?", "Sure, I dimmed the lights to 40, warm."),
    ("And some quiet music, please.", "Of course. The speaker is at volume 20 now."),
)
GOLDEN = {
    "lora": {
        "losses": (9.434489, 4.617385, 8.509487, 4.286318, 7.662319, 3.953742),
        "shift_norm": 1.139428,
        "reference_nll": (115.984598, 54.537829),
        "second": "By all means. I have set the lights to a brightness of 40 percent. "
        "I remain at your disposal.",
    },
    "prefix": {
        "losses": (9.125194, 4.565580, 7.484674, 4.488964, 6.696772, 4.434809),
        "shift_norm": 24.618808,
        "reference_nll": (102.994687, 61.897031),
        "second": "By all means. I have set the lights to 40% brightness. "
        "I remain at your disposal.",
    },
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_training_and_answers_of_the_shipped_model(kind: str) -> None:
    base = load_base(ModelConfig(), prompt=DEFAULT_PROMPT, device="cpu")
    messages = [
        Message(role, text)
        for asked, answered in TALK
        for role, text in (("user", asked), ("assistant", answered))
    ]
    session = Session(0, "online", tuple(messages), (1, 3))
    (rendered,) = render_session(base, session, (1, 3), max_prompt_tokens=700, max_total_tokens=800)
    spans = tuple((turn.prompt_tokens, turn.end) for turn in rendered.turns)
    examples = tuple(Example(rendered.token_ids, (span,)) for span in spans)
    runtime, config = Runtime.of(base.model), CONFIGS[kind]
    ids = base.tokenizer(getattr(config, "init_text", ""))["input_ids"]
    bank = make_bank(runtime, config=config, slots=["user"], seeds=[0], init_token_ids=ids)
    training = TrainingConfig(learning_rate=RATES[kind], epochs=3, examples=10)
    (report,) = train_bank(runtime, bank, [SlotPlan("user", training, 7, examples)], pad_token_id=0)
    replies = generate(
        runtime,
        bank,
        [DecodingJob(0, rendered, ("first", "second"))],
        config=DecodingConfig(max_new_tokens=24),
        stop_token_ids=(end_of_turn_id(base),),
        pad_token_id=0,
    )
    golden = GOLDEN[kind]
    assert report.losses == pytest.approx(golden["losses"], rel=1e-3)
    assert report.shift_norm == pytest.approx(golden["shift_norm"], rel=1e-3)
    found = [replies[name].reference_nll for name in ("first", "second")]
    assert found == pytest.approx(golden["reference_nll"], rel=1e-3)
    assert base.tokenizer.decode(list(replies["second"].token_ids)) == golden["second"]
