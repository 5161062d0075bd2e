"""Starts a service in an empty Postgres schema, one for each trial, without the service knowing.

    python fresh_schema.py COMMAND...

A proof gives each trial a folder of its own (BUTTRESS_DIR) and restarts the service on the same one after a kill. What the
folder is for files, this is for a database: libpq's own PGOPTIONS points the whole process at the schema of that folder.
"""

import hashlib
import os
import sys

import psycopg

schema = "trial_" + hashlib.sha256(os.environ["BUTTRESS_DIR"].encode()).hexdigest()[:16]
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
os.environ["PGOPTIONS"] = f"-c search_path={schema}"
os.execvp(sys.argv[1], sys.argv[1:])
