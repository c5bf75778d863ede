"""Diagnostics: how gradients flow through a model, where they stop, and what to do about it."""

from unspool.diagnostics.diagnosis import Diagnosis, diagnose
from unspool.diagnostics.figures import COLOURS, draw
from unspool.diagnostics.gradient_flow import GradientFlow, gradient_flow, student_quantile
from unspool.diagnostics.recording import Recording, evaluating, record
from unspool.diagnostics.remedies import KnownTraining, Remedy, Verdict, judge
from unspool.diagnostics.report import card, page, report
from unspool.diagnostics.saturation import Activation, Saturation, saturation
from unspool.diagnostics.spectrum import Spectrum, lyapunov_exponents, spectrum
from unspool.diagnostics.units import Selective, Signal, selective_units, signals

__all__ = [
    "COLOURS",
    "Activation",
    "Diagnosis",
    "GradientFlow",
    "KnownTraining",
    "Recording",
    "Remedy",
    "Saturation",
    "Selective",
    "Signal",
    "Spectrum",
    "Verdict",
    "card",
    "diagnose",
    "draw",
    "evaluating",
    "gradient_flow",
    "judge",
    "lyapunov_exponents",
    "page",
    "record",
    "report",
    "saturation",
    "selective_units",
    "signals",
    "spectrum",
    "student_quantile",
]
