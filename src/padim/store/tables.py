"""The tables of a station's database."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # the only kind that counts up by itself

# One row an arrival; the columns from ``verdict`` on are empty until it has one.
inspections = Table(
    "inspections",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("recipe", Text, nullable=False),
    Column("time_s", Float(53), nullable=False),
    Column("source", Text, nullable=False),
    Column("key", Text),
    Column("serial", Text),
    Column("tags", JSON, nullable=False),
    Column("verdict", String(16)),
    Column("reason", Text),
    Column("finished_s", Float(53)),
    Column("image_sha256", String(64)),
    Column("image_bytes", BigInteger),
    Column("queue_ms", Float(53)),
    Column("decode_ms", Float(53)),
    Column("score_ms", Float(53)),
    Column("model_sha256", String(64)),
    Column("score", Float(53)),
    Column("p_value", Float(53)),
    Column("threshold", Float(53)),
    Column("threshold_kind", Text),
    Column("label", Text),
    Column("level_scores", JSON),
    Column("monitor", Text),
    UniqueConstraint("source", "key", name="one_inspection_a_key"),
    Index("inspections_by_verdict", "verdict", "id"),
    Index("inspections_by_recipe", "recipe", "id"),
    Index("inspections_by_serial", "serial"),
)

regions = Table(
    "regions",
    metadata,
    Column(
        "inspection", String(36), ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("place", Integer, primary_key=True),  # from the highest peak down
    Column("x", Integer, nullable=False),
    Column("y", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("area_px", BigInteger, nullable=False),
    Column("peak_x", Integer, nullable=False),
    Column("peak_y", Integer, nullable=False),
    Column("peak", Float(53), nullable=False),
    Column("mean", Float(53), nullable=False),
)

# What a receiver has not got yet.
outbox = Table(
    "outbox",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("sink", Text, nullable=False),
    Column(
        "inspection", String(36), ForeignKey("inspections.id", ondelete="CASCADE"), nullable=False
    ),
    UniqueConstraint("sink", "inspection", name="one_message_a_sink"),
    Index("outbox_by_sink", "sink", "number"),
)

models = Table(
    "models",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("words", Text, nullable=False),
    Column("first_s", Float(53), nullable=False),
)

# Which model a recipe had from when on.
recipes = Table(
    "recipes",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("station", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("model_sha256", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("since_s", Float(53), nullable=False),
)

alarms = Table(
    "alarms",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("station", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("time_s", Float(53), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("cleared_s", Float(53)),
)

# What is to be known again after a restart.
states = Table(
    "states",
    metadata,
    Column("station", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("text", Text, nullable=False),
)
