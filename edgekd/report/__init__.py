"""What a run says of itself: report.json, report.html and the student's model card."""
