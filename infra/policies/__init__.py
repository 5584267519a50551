"""What the template's policies allow: read from the template, evaluated as AWS does, proven against what is sent."""
