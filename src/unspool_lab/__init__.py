"""The lab: a textbook's claims about recurrent networks as experiments that anyone can run in a minute or two.

Each prints theory beside measurement and draws a figure. The lab is a user of the toolkit; but for the command line, which
names its experiments, nothing of the toolkit knows it.
"""

from unspool_lab import clipping, long_range, lstm_gates, relu_variance, saturation, tasks_order
from unspool_lab.experiment import Experiment, Figure, Result
from unspool_lab.run import LabOptions, run_lab

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (relu_variance, saturation, lstm_gates, clipping, tasks_order, long_range)
}
"""Experiments by name."""

__all__ = ["EXPERIMENTS", "Experiment", "Figure", "LabOptions", "Result", "run_lab"]
