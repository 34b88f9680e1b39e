"""Where images come from: places, tables, notifications, failures; as refs, and refs as chunks."""
