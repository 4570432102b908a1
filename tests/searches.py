"""Whole searches of the solver in a made-up world."""

from worlds import TYPES

from sintra.config.options import PlannerConf, ProbeConf
from sintra.config.study import Study
from sintra.core.types import Candidate, Constraint, Goal, Hardware, Measurement
from sintra.formats.gguf.sizes import PRESET_BITS, MixSizes, bits_per_weight
from sintra.hardware.estimate.estimate import Shape, memory_beside_weights
from sintra.planning.planners import imatrix_mse, optuna_tpe, random_mix, solver
from sintra.planning.solver.mixes import mix_of
from sintra.planning.solver.search import open_search
from sintra.planning.state import ModelFacts, PlannerState, Priors, StudyResults, TextResult

DEVICE = Hardware("d", "d", "cpu", 4, "", 2**33, 2**33, 2e10, 0.6, 0.2, 0.0, None)


MODULES = {"solver": solver, "imatrix_mse": imatrix_mse, "random": random_mix, "optuna": optuna_tpe}


def study(planner="solver", optimise="kld_mean", types=TYPES, evaluations=25, **limits):
    metrics = {
        "size": ("size_bytes", "<="),
        "kld": ("kld_mean", "<="),
        "tps": ("device_tg_tps", ">="),
        "top": ("same_top", ">="),
        "ram": ("device_ram_bytes", "<="),
    }
    held = tuple(Constraint(*metrics[k], v, k) for k, v in limits.items())
    options = PlannerConf(
        planner,
        types=tuple(types),
        evaluations=evaluations,
        kv=("f16", "q8_0"),
        refine=False,
    )
    return Study(
        "s",
        "m",
        DEVICE,
        Goal("g", held, optimise, 1),
        options,
        ProbeConf(),
        {},
        0,
        99,
        (),
        context=512,
    )


class Run:
    """A study on a world: proposals are measured at once. report: the report text's KLD over the
    search text's.
    """

    def __init__(self, given, world, presets=1.0, report=1.0, lessons=(), sensitivity=None):
        self.given, self.world, self.presets, self.report, self.lessons = (
            given,
            world,
            presets,
            report,
            lessons,
        )
        self.sensitivity = sensitivity or {}  # of the tensors, by a backward pass
        self.sizes = MixSizes(world.matrices, 60_000, 20_000)
        count = sum(m.count for m in world.matrices)
        self.shape = Shape(0, 0, False, count, 8, 256, 4, 2, 64, 2048)
        self.rounds, self.numbers, self.tried = [], {}, []

    def size(self, recipe):
        if recipe.drop:
            return int(0.88 * self.sizes.total(self.world.uniform("Q2_K")))
        if recipe.tensors:
            return self.sizes.total(mix_of(recipe, self.world.space))
        return self.sizes.total(self.preset(recipe.type))

    def preset(self, name):
        """A preset is the largest uniform mix of at most the bits that are published."""
        fitting = (t for t in TYPES if bits_per_weight(t) <= PRESET_BITS[name])
        return self.world.uniform(max(fitting, key=bits_per_weight))

    def kld(self, recipe):
        """A preset does three times what its uniform mix would, times `presets`."""
        if recipe.drop:
            return 1.0
        if recipe.tensors:
            return self.world.seen(mix_of(recipe, self.world.space)).value
        return self.world.kld(self.preset(recipe.type)) * 3 * self.presets

    def measure(self, proposal):
        recipe, level = proposal.recipe, proposal.level
        self.tried.append((recipe, level))
        if level != "build":
            value = self.kld(recipe) * (self.report if level == "report" else 1)
            row = {"kld_mean": value, "same_top": 1 - value**0.5}
            self.numbers[recipe, level] = {
                k: Measurement(k, v, "", "measured", 0.03 * v) for k, v in row.items()
            }

    def candidates(self):
        found = []
        for recipe in dict.fromkeys(r for r, level in self.tried if level in ("search", "report")):
            rows = {
                **self.numbers.get((recipe, "search"), {}),
                **self.numbers.get((recipe, "report"), {}),
            }
            size = Measurement("size_bytes", self.size(recipe), "bytes", "exact")
            speed = Measurement(
                "device_tg_tps", 1.2e10 / self.size(recipe), "tokens/s", "estimated"
            )
            ram = self.size(recipe) + memory_beside_weights(self.shape, 512, recipe.kv)
            memory = Measurement("device_ram_bytes", ram, "bytes", "estimated")
            decided = (recipe, "report") in self.numbers
            first = next(
                p
                for r in self.rounds
                for p in r
                if p.recipe == recipe and p.level in ("search", "report")
            )
            found.append(
                Candidate(
                    recipe,
                    "",
                    first.author,
                    (*rows.values(), size, speed, memory),
                    decided=decided,
                    predicted=first.predicted,
                )
            )
        return tuple(found)

    def state(self):
        built = {r for r, level in self.tried if level == "build"}
        uniform = {r for r in built if r.uniform}
        share = {
            r: {
                n: dict.fromkeys(("output", "diagonal", "weights"), v)
                for n, v in self.world.space.distortion[r.tensors[0][1]].items()
            }
            for r in uniform
        }
        results = StudyResults(
            candidates=self.candidates(),
            attempts=frozenset(self.tried),
            last_round=tuple(self.rounds[-1]) if self.rounds else (),
            text_results=tuple(
                TextResult(r, level, rows) for (r, level), rows in self.numbers.items()
            ),
            file_bytes={r: self.size(r) for r in built},
            kld_difference=lambda a, b: (
                0.0,
                0.02 * self.world.kld(mix_of(b, self.world.space)),
            ),
        )
        model = ModelFacts(
            layers=8,
            sizes=self.sizes if uniform else None,
            presets={name: self.preset(name) for name in PRESET_BITS},
            shape=self.shape,
            distortion=share,
            sensitivity=self.sensitivity if uniform else {},
        )
        return PlannerState(results, model, Priors(self.lessons))

    def to_its_end(self, most=60):
        while proposed := [
            p
            for p in MODULES[self.given.planner.name].propose(self.given, self.state())
            if (p.recipe, p.level) not in set(self.tried)
        ]:
            self.rounds.append(proposed)
            for proposal in proposed:
                self.measure(proposal)
            assert len(self.rounds) < most
        return self

    def best(self):
        """The least damage, in truth, of what was measured within the limits."""
        size = next(
            (c.limit for c in self.given.goal.constraints if c.metric == "size_bytes"), float("inf")
        )
        found = [
            r for r, level in self.tried if level == "search" and r.tensors and self.size(r) <= size
        ]
        measured = min(found, key=lambda r: self.numbers[r, "search"]["kld_mean"].value)
        return self.world.kld(mix_of(measured, self.world.space))


def probed_run(given, world):
    """A study whose curve and probes are measured, and nothing else."""
    run = Run(given, world)
    while not run.rounds or open_search(given, run.state())[1]:
        proposals = open_search(given, run.state())[1]
        run.rounds.append(proposals)
        for proposal in proposals:
            run.measure(proposal)
    return run


def bits(world, wide):
    """A file size between types."""
    return int(60_000 + sum(m.count for m in world.matrices) * wide / 8)
