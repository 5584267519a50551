"""What an operator needs besides the software: a template for AWS, local servers, what it costs, how far it goes."""
