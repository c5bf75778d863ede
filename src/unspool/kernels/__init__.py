"""The engine: programs traced from equations, and the two scans that run them over time."""

from unspool.kernels.cross_entropy import linear_cross_entropy, linear_scores
from unspool.kernels.encoding import OPERATIONS_IN_ORDER, EncodedProgram, encode
from unspool.kernels.explanation import Explanation, ProgramSizes, explain_scan
from unspool.kernels.fold import fold, fold_adjoint, run_program
from unspool.kernels.gated_scan import gated_scan
from unspool.kernels.kept import unchanged_weights
from unspool.kernels.likeliest import Likeliest, linear_likeliest
from unspool.kernels.linear_scan import fold_linear, linear_scan
from unspool.kernels.masks import active_steps, backward_resets, check_lengths, check_reset, clear_padding
from unspool.kernels.program import Instruction, Program, ProgramBuilder, hoist, parse
from unspool.kernels.residuals import TrainingPlan, plan_training
from unspool.kernels.scan_inputs import ScanInputs
from unspool.kernels.tracing import CellPrograms, Signature, trace, trace_adjoint
