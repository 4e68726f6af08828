"""What one_node/ does, on a distributed PostgreSQL (Citus): without locks on several rows.

push_tokens is spread by token and user_sessions by token_hash: no foreign key between them, and no
unique index of devices. docs/contract.md says which promises are weaker; `push-tokens sweep` mends
what a race left. The same statements run on one PostgreSQL, with or without those keys.
"""

# As in one_node/, but no plan for all values: Citus plans by the values.
SESSION_SETTINGS = {"jit": "off", "enable_seqscan": "off"}
