"""The record of a run, and what `validate`, `benchmark` and `inspect` print."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from graphcompress.record.base import FORMAT, Document, ModelFile, Varying, without_varying
from graphcompress.record.rules import ApplicationReport, RuleReport


class DataSource(Document):
    """The feeds. `calibration` and `held_out` say how many were used for which; `note` is set where they could not be kept apart."""

    source: str
    sha256: str
    feeds: int
    random: bool = Field(description="True where these are random numbers, made because the caller asked for them.")
    calibration: int
    held_out: int
    note: str = ""


class RecipeSource(Document):
    """The recipe by the name or file it was asked for by, and the hash of its file (of the resolved options, for a command that is one step)."""

    name: str
    sha256: str


class Size(Document):
    """A model's statistics: bytes on disk with external data, parameters (elements of initializers), nodes, MACs of one run at batch 1."""

    bytes: int
    parameters: int
    nodes: int
    macs: int | None
    operators: dict[str, int] = Field(description="How often each operator occurs; with its domain unless that is ai.onnx.")


class RefusalReport(Document):
    """Why something was left as it was: `id` is stable, `reason` a sentence, `node` the (first) node concerned."""

    id: str
    reason: str
    node: str
    count: int


class OperatorReport(Document):
    """One heavy operator. `precision` it computes in; where that is float, `id` is stable and `reason` says why."""

    node: str
    op: str
    precision: Literal["int8", "float"]
    id: str
    reason: str


class CertificateReport(Document):
    """What of the result of a step runs in integers on the provider of the target that decided it. `source` says how that is known: from the graph that the provider made of the
    result ("optimized-graph"), from the nodes that it took ("nodes-taken"), or not at all ("none": it is what was written)."""

    target: str
    provider: str
    source: Literal["optimized-graph", "nodes-taken", "none"]
    heavy: int = Field(description="How many heavy operators there are.")
    int8: int = Field(description="How many of them compute in INT8.")
    operators: list[OperatorReport]


class StepRun(Document):
    """One step of the recipe."""

    use: str
    options: dict[str, Any] = Field(description="As resolved: defaults included.")
    rung: str = Field(description="The alternative of the step that this is: the one in the result, or, where the step was rolled back, the boldest one.")
    in_result: bool = Field(description="False where the step changed nothing or was rolled back; what it applied is then not in the result.")
    changed: bool
    applied: dict[str, int] = Field(description="Rule or stage id -> how often it was applied.")
    refusals: list[RefusalReport]
    decisions: dict[str, Any]
    applications: list[ApplicationReport] = Field(default=[], description="Of simplify: where each node came from and went, in the order in which it was done.")
    rules: list[RuleReport] = Field(default=[], description="Of simplify: what each rule that was tried cost.")
    stop: str = Field(
        default="",
        description="Of simplify: why rewriting ended: fixed point, loop (rules that undo one another: see refusals), budget, rounds.",
    )
    certificate: CertificateReport | None = Field(description="What runs in integers after this step: of a quantizing step, and of those after it.")
    seconds: Annotated[float, Varying]
    peak_memory_bytes: Annotated[
        int | None, Field(description="Highest resident memory of the process up to the end of the step.", json_schema_extra={"varies": True})
    ]


class MeasureReport(Document):
    """How much of what an output is used for is the same, by one measure: classes (1 - what the other choices cost), sequence (edit similarity of collapsed
    sequences), probabilities (F1 at the threshold, weighed by margin), scores (probabilities within 0.05), values (elements within 5% of their spread),
    channel (those of the worst channel), embedding (cosine), boxes (F1 of matched rows), exact (equal elements), or metric (the caller's own)."""

    name: str
    value: float = Field(description="0 to 1.")
    floor: float = Field(description="The value at which a task begins to notice (from benchmarks/judge.py).")
    agreement: float = Field(description="The value on the scale of all measures: 0.99 at the floor, 1 where nothing differs, 0 where nothing is the same.")
    decisions: float = Field(description="What the measure counts: rows, sequences, elements, sets, weights.")
    disagreements: float


class OutputDistance(Document):
    """How far one output is from the reference over all feeds compared. SQNR, cosine and max abs are over the elements that are finite on both sides."""

    kind: str = Field(description="What the output is, found from the graph or stated: classes, sequence, probabilities, boxes, values, embedding or exact.")
    equal: bool = Field(description="Every element is equal.")
    agreement: float | None = Field(description="The lowest of the measures.")
    measures: list[MeasureReport]
    sqnr_db: float | None
    cosine: float | None
    max_abs: float | None
    inputs: int = Field(description="How many inputs may be called independent: rows of a table of classes, else feeds.")
    broken: int = Field(description="Elements that are finite on one side only.")
    unstable: bool = Field(description="The reference differs from itself when it runs twice on the same input, so this output was not judged.")


class FindingReport(Document):
    """Something that makes a judgement weak: `id` is stable, `text` a sentence (also among the notes)."""

    id: str
    text: str


class Distance(Document):
    """How far a model is from the reference on the same feeds. `agreement` is that of the worst output, `worst` its name, or that of the caller's metric
    (`worst` is null)."""

    agreement: float | None
    worst: str | None
    feeds: int
    statement: str = Field(description="An exact binomial bound on inputs as a sentence, or that none is claimed; never used as a bar.")
    findings: list[FindingReport] = Field(description="What makes these feeds or outputs poor judges.")
    outputs: dict[str, OutputDistance]
    metric: MeasureReport | None = Field(default=None, description="The caller's own, in place of the outputs' measures or beside them.")


class Timing(Document):
    """One interleaved measurement. Medians in milliseconds per feed; `speedup` = time of the reference / time of the candidate, `speedup_ci` its 95% interval;
    `band` is the interval of the reference against itself: a speed-up inside it is no difference. Everything here varies from run to run."""

    threads: int
    reference_ms: float
    median_ms: float
    speedup: float
    speedup_ci: tuple[float, float] | None
    band: tuple[float, float] | None
    rounds: int
    verdict: Literal["faster", "slower", "same", "noisy"]
    clock: Literal["cpu", "wall"] = Field(description="CPU time of the thread that computes, or the wall clock where several do.")
    rejected: int = Field(
        description="Rounds in which the reference differed from itself by more than 5%: they count only where fewer than six others are left."
    )
    findings: list[FindingReport] = Field(description="What makes this measurement weak.")


class CandidateReport(Document):
    """One candidate that the gate judged. `reason` is "" where nothing speaks against it (as far as it was judged), else one of gate/floor, gate/slower, gate/larger,
    gate/not-nearer, gate/not-judged, gate/does-not-build, gate/does-not-run, gate/signature; `because` says it in words."""

    steps: list[str]
    rungs: list[str] = Field(description="Which alternative of each step; an empty text where a step has only one.")
    chosen: bool
    reason: str
    because: Annotated[str, Varying]
    agreement: float | None
    measurements: Annotated[list[Timing], Varying]


class Gate(Document):
    """How `compress` chose what it returns: the boldest candidate that reaches both bars on the feeds that judge. `agreement` and `speedup` are the bars: the built-in ones
    (0.99, and 1: not slower; 1 / 1.02 where the goal is size), or those that the caller stated. Agreement and bar are compared as numbers; a speed-up misses its bar where the measurement proves it."""

    goal: Literal["balanced", "speed", "size"] = "balanced"
    agreement: float
    speedup: float
    kept: list[str] = Field(description="The steps that are in the result.")
    rolled_back: list[str] = Field(description="The steps that changed something and are not in the result.")
    candidates: list[CandidateReport] = Field(description="In the order in which they were judged.")
    explanation: Annotated[str, Varying]


class Bar(Document):
    """A bar that the caller stated, and what was reached (null: it could not be judged, which counts as missed). An agreement holds where `reached` >= `required`; a speed-up also
    where it is equal within what was measured, and what is not proved slower counts as 1. `reached` of a speed-up is the lowest of the thread settings that could be told: one that is too
    noisy by the wall clock tells nothing where another is decided."""

    option: str
    required: float
    reached: Annotated[float | None, Varying]
    held: Annotated[bool, Varying]
    undecided: Annotated[bool, Field(description="Missed because the machine was too busy to tell.", json_schema_extra={"varies": True})] = False


class Record(Document):
    """What `compress`, `simplify`, `prune` and `quantize` write to `--record FILE` and print with `--format json`."""

    format: int = FORMAT
    graphcompress: str
    libraries: dict[str, str]
    command: str
    model: ModelFile
    teacher: ModelFile | None = Field(default=None, description="Of distill only: the model that was learned from; `comparison` is with it.")
    data: DataSource | None
    recipe: RecipeSource
    target: str | None
    provider: str | None = Field(description="The execution provider that the result was judged on; null where nothing was judged.")
    machine: Annotated[
        dict[str, Any] | None,
        Field(description="Where the result was judged: this machine, or that of `place`.", json_schema_extra={"varies": True}),
    ] = None
    place: str | None = Field(default=None, description="The place elsewhere (--on) where the result was judged; null for this process.")
    threads: int | None = Field(description="As asked for; null: measured with one thread and with all.")
    seed: int
    output: str | None = Field(default=None, description="Where the result was written; null where it was not.")
    output_data: str | None = Field(default=None, description="The file beside `output` that holds its external data; null where the result is one file.")
    before: Size
    after: Size
    smaller: float = Field(description="Bytes of the original / bytes of the result.")
    steps: list[StepRun]
    nodes: dict[str, int] | None = Field(default=None, description="How many nodes of the result each provider took, where the runtime tells.")
    comparison: Distance | None = Field(description="The result against the original on the feeds that judge.")
    measurements: Annotated[list[Timing], Field(description="The result against the original, per thread setting.", json_schema_extra={"varies": True})]
    speedup: Annotated[float | None, Field(description="The lowest of the measured speed-ups; 1 for the original.", json_schema_extra={"varies": True})]
    seconds: Annotated[
        float | None,
        Field(
            description="Of the run, from the opened model on: what `steps` do not have of it went into other alternatives, judging and measuring.",
            json_schema_extra={"varies": True},
        ),
    ] = None
    gate: Gate | None = Field(description="Of compress only; null where nothing was searched for.")
    bars: list[Bar]
    notes: list[str] = Field(default=[])

    def stable(self) -> dict[str, Any]:
        """The record without what varies from run to run: equal for equal inputs, whatever the machine's load."""
        return without_varying(type(self), self.model_dump(mode="json"))


class AttackReport(Document):
    """An attack that tells members of the training data from other inputs by a threshold: the area under its ROC curve (0.5: it guesses, 1: it is always right) on the original and on the
    result. Errors are half the width of the 95% interval."""

    name: Literal["loss", "confidence", "entropy"]
    reference: float
    candidate: float
    reference_error: float
    candidate_error: float
    difference: float = Field(description="Result minus original, on the same inputs.")
    difference_error: float


class MemorizationReport(Document):
    """What the answers of both models tell about which inputs they were trained on (docs/privacy.md)."""

    output: str = Field(description="The output whose answers are looked at.")
    members: DataSource
    others: DataSource
    member_rows: int
    other_rows: int
    attacks: list[AttackReport]
    statement: str
    notes: list[str] = Field(default=[])


class ValidateReport(Document):
    """What `validate` prints: the candidate (on `provider`) against the reference (on the CPU) over all feeds."""

    format: int = FORMAT
    graphcompress: str
    reference: ModelFile
    candidate: ModelFile
    data: DataSource
    provider: str
    place: str | None = Field(default=None, description="The place elsewhere (--on) where the candidate ran; null for this process.")
    agreement: float | None = Field(description="Of the worst output, or the caller's metric.")
    worst: str | None
    feeds: int
    statement: str
    findings: list[FindingReport]
    outputs: dict[str, OutputDistance]
    metric: MeasureReport | None = Field(default=None, description="The caller's own.")
    nodes: dict[str, int] | None = Field(description="How many nodes of the candidate each provider took, where the runtime tells.")
    share: float | None = Field(description="The part of the nodes that the provider asked for took, 0 to 1.")
    saturating: list[str] | None = Field(default=None, description="Layers that can saturate on x86 without VNNI (--without-vnni); null where nobody asked.")
    smaller: float
    memorization: MemorizationReport | None = Field(default=None, description="With --memorization.")
    bars: list[Bar]
    notes: list[str] = Field(default=[])


class BenchmarkRow(Document):
    """One model on one provider with one thread setting. Speed-ups are against the reference on the same provider and threads; the reference's own row has
    speed-up 1 and, as interval, the band: what it shows against itself."""

    path: str | None
    provider: str
    place: str | None = Field(default=None, description="The place elsewhere (--on) where it ran; null for this process.")
    threads: int
    median_ms: float
    speedup: float
    speedup_ci: tuple[float, float] | None
    band: tuple[float, float] | None
    rounds: int
    verdict: Literal["reference", "faster", "slower", "same", "noisy"]
    clock: Literal["cpu", "wall"]
    rejected: int
    bytes: int
    smaller: float
    load_seconds: float | None = Field(description="Until the session is ready, in a fresh process with one thread; null for a model in memory.")
    peak_memory_bytes: int | None = Field(description="Highest resident memory of that process, which also runs one feed.")
    nodes: dict[str, int] | None = Field(description="How many nodes each provider took, where the runtime tells.")
    share: float | None = Field(description="The part of the nodes that the provider asked for took, 0 to 1.")
    joules: float | None = Field(
        default=None, description="Per feed, measured with the processor's counters; null where the system has none, and at a place elsewhere."
    )
    joules_estimated: float | None = Field(default=None, description="Per feed, from MACs by type and bytes of weights (runtime/energy.py); null without MACs.")
    cost_per_million: float | None = Field(default=None, description="Of a million feeds, at the stated price of the machine per hour.")
    runtime: str | None
    notes: list[str] = Field(default=[])


class BenchmarkReport(Document):
    """What `benchmark` prints. Rows are ordered by provider, then threads, then model with the reference first: `models[0]` is REF, `models[1]` the first CAND."""

    format: int = FORMAT
    graphcompress: str
    models: list[BenchmarkRow]
    data: DataSource
    machine: dict[str, Any]
    bars: list[Bar]
    notes: list[str] = Field(default=[])


class TensorInfo(Document):
    """An input or output. `shape` has an int, a symbol or null per axis, and is null where the rank is unknown."""

    name: str
    dtype: str | None
    shape: list[int | str | None] | None
    kind: str


class NodeInfo(Document):
    """Statistics of one node."""

    name: str
    op: str
    parameters: int
    macs: int | None


class ChannelGroup(Document):
    """Channels that can only be removed together with those of the same index elsewhere: `name` is the first node that makes them, `weights` says how many axes of constants they
    are in; what one of them costs in multiply-accumulates and parameters, all others being there."""

    name: str
    channels: int
    weights: int
    macs_per_channel: float
    parameters_per_channel: float


class InspectReport(Document):
    """What `inspect` prints."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: list[TensorInfo]
    overridable: list[TensorInfo] = Field(description="Inputs that have a default value.")
    outputs: list[TensorInfo]
    bytes: int
    initializer_bytes: int
    parameters: int
    nodes: int
    macs: int | None
    operators: dict[str, int]
    per_node: list[NodeInfo]
    groups: list[ChannelGroup] | None = Field(default=None, description="What `prune` could cut; null unless it was asked for.")
    fixed: list[RefusalReport] | None = Field(default=None, description="Why other indices of weights stay, with how many; null unless it was asked for.")
