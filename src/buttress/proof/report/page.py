def report_page(result): return "<html></html>"
def joined_page(results, missing): return "<html></html>"
