"""What a worker must not import before its first step."""

import subprocess
import sys


def test_no_step_imports_the_compiler():
    """torch's optimizers and recomputation import torch._dynamo, 1.3 s of every worker's start and
    70 MB, for nothing."""
    code = (
        "import sys, torch\n"
        "from torch.nn import Parameter\n"
        "from models.optimizers import load_optimizer, step_optimizer\n"
        "from models.probe import LinearProbe\n"
        "LinearProbe(4, 2).observe(torch.ones(2, 4), torch.tensor([0, 1]))\n"
        "from models.bad_numbers import all_finite\n"
        "from models.optimizer_state import OptimizerState\n"
        "p = Parameter(torch.ones(2, 2)); p.grad = torch.ones(2, 2)\n"
        "assert all_finite([p.grad])\n"
        "adamw = load_optimizer('adamw', [p], lr=0.1, weight_decay=0.1)\n"
        "step_optimizer(adamw)\n"
        "state = OptimizerState('adamw', adamw, {'p': p})\n"
        "state.load(state.state())\n"
        "for name in ('sgd', 'lars'):\n"
        "    step_optimizer(load_optimizer(name, [p], lr=0.1, weight_decay=0.1))\n"
        "from models.registry import load_network\n"
        "from models.network import trace_units\n"
        "network = load_network('resnet-small', (1, 16, 16), seed=0)\n"
        "trace_units(network, (1, 16, 16))\n"
        "from models.head_costs import count_head_cost\n"
        "from models.heads import HeadSpec\n"
        "from models.unit_costs import count_unit_costs\n"
        "count_unit_costs(network, (1, 16, 16))\n"
        "count_head_cost(HeadSpec(in_shape=(16, 4, 4), depth=1))\n"
        "from models.numerics import Numerics\n"
        "again = Numerics(recompute=True)\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "y = again.run(layer, torch.ones(1, 2), seed=lambda: None, writes_input=False)\n"
        "y.sum().backward()\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
