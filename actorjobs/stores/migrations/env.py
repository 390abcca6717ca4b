"""Alembic's entry: runs migrations on the connection handed in, or writes them out as SQL."""

from alembic import context

from actorjobs.stores.schema import VERSION_TABLE, metadata

connection = context.config.attributes.get("connection")

if connection is not None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
else:
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"),
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
with context.begin_transaction():
    context.run_migrations()
