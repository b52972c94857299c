"""The tables of the first release."""

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    String,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    number = BigInteger().with_variant(Integer, "sqlite")
    op.create_table(
        "inspections",
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
    )
    op.create_index("inspections_by_verdict", "inspections", ["verdict", "id"])
    op.create_index("inspections_by_recipe", "inspections", ["recipe", "id"])
    op.create_index("inspections_by_serial", "inspections", ["serial"])
    inspection = ForeignKey("inspections.id", ondelete="CASCADE")
    op.create_table(
        "regions",
        Column("inspection", String(36), inspection, primary_key=True),
        Column("place", Integer, primary_key=True),
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
    inspection = ForeignKey("inspections.id", ondelete="CASCADE")
    op.create_table(
        "outbox",
        Column("number", number, primary_key=True, autoincrement=True),
        Column("sink", Text, nullable=False),
        Column("inspection", String(36), inspection, nullable=False),
        UniqueConstraint("sink", "inspection", name="one_message_a_sink"),
    )
    op.create_index("outbox_by_sink", "outbox", ["sink", "number"])
    op.create_table(
        "models",
        Column("sha256", String(64), primary_key=True),
        Column("words", Text, nullable=False),
        Column("first_s", Float(53), nullable=False),
    )
    op.create_table(
        "recipes",
        Column("number", number, primary_key=True, autoincrement=True),
        Column("station", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("model_sha256", String(64), ForeignKey("models.sha256"), nullable=False),
        Column("since_s", Float(53), nullable=False),
    )
    op.create_table(
        "alarms",
        Column("number", number, primary_key=True, autoincrement=True),
        Column("station", Text, nullable=False),
        Column("recipe", Text, nullable=False),
        Column("time_s", Float(53), nullable=False),
        Column("sentence", Text, nullable=False),
        Column("cleared_s", Float(53)),
    )
    op.create_table(
        "states",
        Column("station", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("text", Text, nullable=False),
    )
