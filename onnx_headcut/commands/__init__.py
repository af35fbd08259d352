"""Commands of the command line, one module each; none of them imports anything heavy."""
