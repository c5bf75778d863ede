"""Settings of training, the same for every task."""

from dataclasses import dataclass

from unspool.config import check_settings, require, setting

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant", "plateau")
PRECISIONS = ("float32", "bfloat16")
AVERAGES = ("none", "ema", "asgd", "checkpoints")


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is fitted."""

    epochs: int = setting(0, "passes over the training data; 0: as many as the task finds right for so much data")
    max_steps: int = setting(0, "stop after so many updates; 0: no limit")
    seed: int = setting(0, "of weights, masks and order; equal seeds give equal bits")
    optimizer: str = setting("adamw", "how a gradient becomes an update", OPTIMIZERS)
    learning_rate: float = setting(2e-3, "at its highest")
    weight_decay: float = setting(0.01, "decoupled for adamw; not applied to vectors")
    momentum: float = setting(0.0, "of sgd")
    beta2: float = setting(0.99, "of adamw: memory of the squared gradient")
    schedule: str = setting("cosine", "of the learning rate, after the warm-up", SCHEDULES)
    warmup_steps: int = setting(100, "updates until the learning rate is at its highest")
    final_rate: float = setting(0.02, "cosine: the last learning rate as a share of the highest")
    plateau_factor: float = setting(0.5, "plateau: times the learning rate when validation stands still")
    plateau_patience: int = setting(2, "plateau: validations without improvement before that")
    gradient_clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping")
    average: str = setting("ema", "of weights, used for validation and as the result", AVERAGES)
    ema_decay: float = setting(0.998, "ema: share of the average that each update keeps")
    asgd_patience: int = setting(5, "asgd: averaging begins when validation was better so many validations ago")
    average_checkpoints: int = setting(5, "checkpoints: the mean of the weights at so many last validations")
    patience: int = setting(0, "stop after so many validations without improvement; 0: never")
    validations_per_epoch: int = setting(1, "how often to validate")
    nonfinite_limit: int = setting(10, "stop when so many updates in a row had a loss or gradient that is not finite")
    checkpoint_seconds: float = setting(30.0, "between two checkpoints of the whole training state")
    report_steps: int = setting(50, "updates between two lines of metrics.jsonl")
    watch_gradients: bool = setting(False, "show how far gradients reach, and say what to do when that goes wrong")
    precision: str = setting("float32", "of matrix products in training; weights and states stay float32", PRECISIONS)
    threads: int = setting(0, "CPU threads; 0: PyTorch's own choice")
    device: str = setting("cpu", "where to compute: cpu, cuda, cuda:1, mps")
    tensorboard: bool = setting(False, "also write metrics for TensorBoard into the folder")

    def __post_init__(self) -> None:
        bounds = {
            "at least 1": "validations_per_epoch nonfinite_limit report_steps average_checkpoints",
            "at least 0": "epochs max_steps warmup_steps patience weight_decay gradient_clip checkpoint_seconds "
            "plateau_patience asgd_patience seed",
            "between 0 and 1,024": "threads",
            "above 0": "learning_rate",
            "at least 0 and below 1": "ema_decay beta2 momentum",
            "above 0 and at most 1": "final_rate plateau_factor",
        }
        check_settings(self, bounds)
        require(self.seed < 2**63, "seed", self.seed, "below 2**63")


SECTIONS = {"training": TrainingSettings}
