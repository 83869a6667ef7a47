"""Which column of a file is what: the same options for every command that reads a log."""

from dataclasses import dataclass

from cyclopts import Group, Parameter

from stream.logs import ColumnMapping

__all__ = ["FileColumns"]

COLUMNS_GROUP = Group("Columns of the file", sort_key=8)


@Parameter(name="*", group=COLUMNS_GROUP)
@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """Which column of a log is what; guessed from names and values where it is not said.

    Args:
        user: Column of the user.
        item: Column of the item.
        time: Column of the time.
        type: Column of the type of event.
        constant_type: Type of all events of a file without such a column.
        value: Column of the price, rating or amount; "" for none.
        session: Column of the session; "" for none.
        event_id: Column of the event's own id; "" for none.
        context: Columns that become context, with commas between; "" for none.
        time_format: s, ms, us, ns, or a format such as "%d.%m.%Y %H:%M".
        negative_type: Type of events whose value is negative, such as return; the value loses its sign.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    type: str | None = None
    constant_type: str | None = None
    value: str | None = None
    session: str | None = None
    event_id: str | None = None
    context: str | None = None
    time_format: str | None = None
    negative_type: str | None = None

    def mapping(self) -> ColumnMapping:
        """As `stream.logs` takes it."""
        context = self.context
        return ColumnMapping(
            user=self.user,
            item=self.item,
            time=self.time,
            event_type=self.type,
            constant_type=self.constant_type,
            value=self.value,
            session=self.session,
            event_id=self.event_id,
            context=None if context is None else tuple(name.strip() for name in context.split(",") if name.strip()),
            time_format=self.time_format,
            negative_value_type=self.negative_type,
        )
