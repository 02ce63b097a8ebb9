"""A few interactions and items as CSV text, small enough to check by hand."""

INTERACTIONS = """user,item,timestamp,rating
u1,a,30,5
u1,b,10,4
u1,c,20,1
u1,d,40,5
u2,b,5,4
u2,a,5,4
u2,d,5,4
u2,untitled,6,5
u3,c,1,5
"""
ITEMS = "item,title,brand\na,Apple,Acme\nb,Bread,\nc,Cake,Best\nd,Date,Acme\nuntitled,,Acme\n"
