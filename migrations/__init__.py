"""The databases of the services: one history of revisions for each, and the commands on them.

`python -m migrations` and `sagabox migrate` are the same program.

An upgrade or a downgrade is one transaction: it happens whole, or not at all. A downgrade that
would delete rows, or values of a column, says which, and does nothing unless --yes-delete-data is
given.

A new revision is a file in `<service>/versions/`: the next number, the previous revision's id, and
`kind`: "expand" where the code of the revision before can go on running on the new schema (an added
table, an added column that may be empty), "contract" where it cannot. The service's
`SCHEMA_REVISION` becomes the new id, and `check` finds every difference between the file and the
models. A new service is a new folder, and one entry in `services.py`.
"""
