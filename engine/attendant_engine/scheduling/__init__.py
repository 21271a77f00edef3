"""What a step computes: whose turn it is (tenants, priorities, deadlines), who makes place, and who has used how much."""
