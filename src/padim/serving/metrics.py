"""What Prometheus reads of the service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from padim.serving.drift import Drift
from padim.serving.job import Answer
from padim.serving.recipes import Recipes
from padim.serving.shadow import Comparison
from padim.store.inspection import Verdict

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_P_VALUES = (0.001, 0.01, *(n / 10 for n in range(1, 11)))  # flat above, when all is well
_TOGETHER = (1, 2, 4, 8, 16)
_UNKNOWN = "unknown"  # recipe that a source has named: each name would be a series for ever


class Metrics:
    """Counts answers and steps, and reads queues when it is asked."""

    def __init__(self, recipes: Recipes, drift: Drift) -> None:
        self._recipes = recipes
        self._drift_alarm = drift
        self._registry = CollectorRegistry()
        self._inspections = Counter(
            "padim_inspections",
            "Inspections whose verdict is written.",
            ("recipe", "verdict"),
            registry=self._registry,
        )
        self._refused = Counter(
            "padim_refused",
            "Pictures that were not admitted.",
            ("recipe",),
            registry=self._registry,
        )
        self._p_values = Histogram(
            "padim_p_value",
            "Share of good images that score as high: flat when all is well.",
            ("recipe",),
            buckets=_P_VALUES,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "padim_step_seconds",
            "Seconds of each step of a picture.",
            ("recipe", "step"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._together = Histogram(
            "padim_batch_pictures",
            "Pictures that were scored together.",
            ("recipe",),
            buckets=_TOGETHER,
            registry=self._registry,
        )
        self._shadows = Counter(
            "padim_shadow",
            "Pictures that a model on trial has scored as well.",
            ("recipe", "outcome"),
            registry=self._registry,
        )
        self._inside = Gauge(
            "padim_inside",
            "Pictures that were admitted and are not answered.",
            ("recipe",),
            registry=self._registry,
        )
        self._models = Gauge(
            "padim_model_info",
            "The model that answers for a recipe.",
            ("recipe", "model_sha256", "engine", "backbone"),
            registry=self._registry,
        )
        self._drift = Gauge(
            "padim_drift_evidence",
            "Evidence that parts have changed; the alarm rings at parts_between_alarms.",
            ("recipe",),
            registry=self._registry,
        )
        self._alarms = Gauge(
            "padim_drift_alarm",
            "1 while nobody has cleared the drift alarm.",
            ("recipe",),
            registry=self._registry,
        )
        for recipe in recipes:
            for verdict in Verdict:
                self._inspections.labels(recipe, verdict.value)
            self._refused.labels(recipe)

    def count(self, answer: Answer) -> None:
        """Count an answer."""
        inspection = answer.inspection
        recipe, took = inspection.arrival.recipe, inspection.took
        if recipe not in self._recipes:
            recipe = _UNKNOWN
        self._inspections.labels(recipe, inspection.verdict.value).inc()
        if inspection.findings is not None:
            self._p_values.labels(recipe).observe(inspection.findings.p_value)
        if answer.n_together:
            self._together.labels(recipe).observe(answer.n_together)
        for step, milliseconds in vars(took).items():
            if milliseconds is not None:
                self._seconds.labels(recipe, step).observe(milliseconds / 1e3)

    def count_comparison(self, comparison: Comparison) -> None:
        """Count what a model on trial said."""
        outcome = {True: "agreed", False: "disagreed", None: "left out"}[comparison.is_agreed]
        self._shadows.labels(comparison.inspection.arrival.recipe, outcome).inc()

    def count_refusal(self, recipe: str) -> None:
        """Count a picture that was not admitted."""
        self._refused.labels(recipe).inc()

    def write(self) -> bytes:
        """Write all as Prometheus reads it."""
        self._models.clear()
        for name, recipe in self._recipes.items():
            opened = recipe.current
            self._drift.labels(name).set(self._drift_alarm.measure(name))
            self._alarms.labels(name).set(self._drift_alarm.find_alarm(name) is not None)
            self._inside.labels(name).set(opened.lane.n_inside if opened else 0)
            if opened is not None:
                predictor = opened.predictor
                backbone = predictor.description.facts["backbone"]["name"]
                sha256 = predictor.file_sha256 or ""
                self._models.labels(name, sha256, predictor.engine, backbone).set(1)
        return generate_latest(self._registry)
